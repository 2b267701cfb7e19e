"""python -m jobs.export ...: the same as `cotray export ...`."""

from cotray.cli import job

if __name__ == "__main__":
    raise SystemExit(job("export"))
