"""python -m jobs.probe -c CONFIG [KEY=VALUE ...]"""

from cotray.cli import job

if __name__ == "__main__":
    raise SystemExit(job("probe"))
