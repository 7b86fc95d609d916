"""Settings side by side on one prompt, and over a grid: texts, measures, divergences. Knows no terminal and no file of a model."""
