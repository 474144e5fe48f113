"""dist_ai: layered deep-learning training whose ground floor is distribution.

One program gives the same numbers on one process and on many, and is safe to kill at any moment.

```python
from dist_ai.metrics import accuracy
from dist_ai.vision import ImageDataLoaders, Resize, aug_transforms, vision_learner

dls = ImageDataLoaders.from_folder(path, valid_pct=0.2, item_tfms=Resize(64), batch_tfms=aug_transforms(), bs=64)
learn = vision_learner(dls, "resnet18", metrics=accuracy)
learn.fine_tune(3)
learn.export("model")
```

Importing this package does nothing and loads nothing: each part is imported by its own name
(`dist_ai.vision`, `dist_ai.learner`, `dist_ai.data`, ...). `ARCHITECTURE.md` draws the rooms.
"""

from typing import TYPE_CHECKING, Any

__all__ = ["__version__"]

__version__ = "0.1.0"

if not TYPE_CHECKING:  # for a type checker any name would be there

    def __getattr__(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from dist_ai.core.names import missing_name  # now, for what is imported with the package is imported by all

        return missing_name(__name__)(name)
