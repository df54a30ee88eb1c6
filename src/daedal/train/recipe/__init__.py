"""A recipe: the YAML that says how weights are made, checked by pydantic. A task's is a class, in the
module of its medium; daedal.train.tasks reads them."""
