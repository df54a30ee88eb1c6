"""Music: `load` a model by name and call it.

pipeline = daedal.load("house/tunes")
tune = pipeline("a lively jig in D major for fiddle, 120 bpm", seed=1)
tune.save("jig.wav"), tune.save("jig.mid"), tune.save("jig.svg")
"""

from pathlib import Path

from daedal.errors import DaedalError
from daedal.pipelines import musicgen, tunes
from daedal.pipelines.medium import Pipeline
from daedal.pipelines.place import located
from daedal.pipelines.remote_audio import RemoteMusic


def holds(place: Path) -> bool:
    """Whether a folder holds a model of music."""
    return tunes.holds(place) or musicgen.holds(place)


def load(name_or_folder: str | Path, device: str = "auto", dtype: str = "auto") -> Pipeline:
    """A pipeline for a house model of tunes, or a MusicGen folder or Hub name. `dtype` auto runs
    MusicGen's decoder on a CPU with weights of 8 bits."""
    folder = located(name_or_folder)
    if tunes.holds(folder):
        return tunes.TunePipeline.load(str(name_or_folder), folder, device, dtype)
    if musicgen.holds(folder):
        return musicgen.MusicGenPipeline.load(str(name_or_folder), folder, device, dtype)
    raise DaedalError(f"{name_or_folder} is no model of music; house/tunes is one.")


def connect(server: str, model: str) -> Pipeline:
    """A model of a Daedal server."""
    return RemoteMusic(server, model)
