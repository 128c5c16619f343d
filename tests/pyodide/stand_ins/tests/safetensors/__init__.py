"""Nothing: so tinymoe reads and writes such files itself, and its tests see that."""
