"""The HTTP server: OpenAI's routes for every medium, jobs, files, and the studio at `/`.

    daedal serve                       # http://127.0.0.1:8765

Files: `app` puts the application together, `state` is what its routes share, `driver` runs the
engines off the event loop, `models` lends models by name within one budget, `jobs` keeps long work,
and each of the others is one group of routes."""
