"""The exercises, one module per chapter: `ch01.py` holds `EXERCISES`, a list of `tinymoe.course.registry.Exercise`."""
