"""python -m jobs.judge ...: the same as `cotray judge ...`."""

from cotray.cli import job

if __name__ == "__main__":
    raise SystemExit(job("judge"))
