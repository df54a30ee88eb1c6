"""Recipe to weights: recipes, objectives, optimizers, the one trainer, parallelism."""
