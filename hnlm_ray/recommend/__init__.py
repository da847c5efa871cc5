"""The recommender: graph, models, samplers, alignment, losses, metrics, one trainer, three stages."""
