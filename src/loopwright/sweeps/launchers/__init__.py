"""Where jobs run: each module holds one launcher and the settings that choose it."""
