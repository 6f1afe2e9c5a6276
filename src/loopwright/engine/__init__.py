"""The loop: tasks say what to minimise, the engine does every update. Knows no task, no file and no Hydra."""
