"""The analysis behind `code_census.py`: plain functions, which know no task and no flow.

`sources` finds and reads files, `syntax` parses them, `measure` counts, `fingerprints` makes
renamed copies look alike, `duplicates` groups those that do, `ranking` reduces to what is worth
showing, `report` and `terminal` show it. What they hand to each other is `str` or a frozen
dataclass from here, so that any step can run in another process.
"""
