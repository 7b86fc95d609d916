"""Many prompts from a file, their texts into another; each row exactly once."""

from fanlight.batch.job import Failure, JobOptions, Progress, Summary, run_job, run_rows
from fanlight.batch.rows import Row, parse_row, result_of, row_seed
from fanlight.batch.worker import Worker

__all__ = [
    "Failure",
    "JobOptions",
    "Progress",
    "Row",
    "Summary",
    "Worker",
    "parse_row",
    "result_of",
    "row_seed",
    "run_job",
    "run_rows",
]
