"""What `loopwright new` writes: a small project, or a part in the user's own, that trains at once."""
