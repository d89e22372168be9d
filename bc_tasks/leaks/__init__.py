"""The leak guard: seeks near copies, says which images a model must not learn from, and shows them to a person."""
