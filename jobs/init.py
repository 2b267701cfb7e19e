"""python -m jobs.init ...: the same as `cotray init ...`."""

from cotray.cli import job

if __name__ == "__main__":
    raise SystemExit(job("init"))
