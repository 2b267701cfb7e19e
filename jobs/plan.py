"""python -m jobs.plan ...: the same as `cotray plan ...`."""

from cotray.cli import job

if __name__ == "__main__":
    raise SystemExit(job("plan"))
