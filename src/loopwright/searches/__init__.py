"""Hyperparameter search: studies, samplers and pruners, driven by Optuna's ask and tell."""
