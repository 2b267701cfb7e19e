"""python -m jobs.sweep ...: the same as `cotray sweep ...`."""

from cotray.cli import job

if __name__ == "__main__":
    raise SystemExit(job("sweep"))
