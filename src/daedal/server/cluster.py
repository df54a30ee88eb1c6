"""`daedal serve --ray N`: the same application as N replicas of Ray Serve, on one machine or a
cluster (extra: cluster).

Each replica has its own engines and models; with GPUs each has one. Jobs, files and responses are in
one folder, which all replicas must see: on one machine any, on several a shared one."""

import time
from typing import Any

from daedal.errors import DaedalError
from daedal.server.app import create_app
from daedal.server.state import ACTIVE, Options


def deployment(options: Options, replicas: int) -> Any:
    """The application to give to `ray.serve.run`: one replica at least, `replicas` at most, as many
    as there are requests for."""
    try:
        from ray import serve
    except ImportError:
        raise DaedalError('--ray needs Ray; pip install "daedal[cluster]".') from None
    import torch

    @serve.deployment(
        name="daedal",
        max_ongoing_requests=ACTIVE + options.queue,
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": replicas,
            "initial_replicas": replicas,
            "target_ongoing_requests": ACTIVE,
        },
        ray_actor_options={"num_cpus": 1, "num_gpus": int(torch.cuda.is_available())},
        health_check_period_s=5,
    )
    @serve.ingress(lambda: create_app(options))
    class Replica:
        pass

    return Replica.bind()


def deploy(options: Options, port: int, replicas: int) -> None:
    """Serve until interrupted."""
    found = deployment(options, replicas)
    from ray import serve

    serve.start(http_options={"host": options.host, "port": port})
    serve.run(found, name="daedal", route_prefix="/")
    try:
        while True:
            time.sleep(1)
    finally:
        serve.shutdown()
