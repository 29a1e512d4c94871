"""An examination from outside: by questions, pictures, voices and rooms apart from those of training."""
