"""The protocol of the released code: a controller, a model worker and a codec worker."""
