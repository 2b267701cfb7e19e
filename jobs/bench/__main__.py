"""python -m jobs.bench ...: the same as `cotray bench ...`."""

from cotray.cli import job

if __name__ == "__main__":
    raise SystemExit(job("bench"))
