"""`before.py` with its two loops replaced by a `Learner` over the same loaders; the rest is imported from there.

python examples/mnist/after.py
dist-ai launch --workers 2 examples/mnist/after.py      # the same numbers, on two processes

Besides what `before.py` does it goes on where it was killed, predicts, and writes a model that holds no code.
"""

import torch
from before import Net, arguments, loaders
from torch import optim

from dist_ai.callbacks import ParamScheduler
from dist_ai.export import ModelSpec, register_builder
from dist_ai.learner import Learner, load_learner
from dist_ai.losses import CrossEntropyLoss
from dist_ai.metrics import accuracy
from dist_ai.optimizer import exponential

register_builder("examples.mnist.Net")(Net)


def main(given=None, **options):
    args = arguments(given)
    torch.manual_seed(args.seed)
    train_loader, test_loader = loaders(args)
    # Of log-probabilities, which this network returns, it is the same as F.nll_loss; it knows what they mean, to predict.
    learn = Learner(
        (train_loader, test_loader), Net(), CrossEntropyLoss(), opt_func=optim.Adadelta, metrics=accuracy,
        spec=ModelSpec("examples.mnist.Net"), **options,
    )  # fmt: skip
    falls = exponential(args.lr, args.lr * args.gamma**args.epochs)
    learn.fit(args.epochs, args.lr, cbs=ParamScheduler({"lr": falls}))

    image, label = test_loader.dataset[0]
    _, predicted, _ = load_learner(learn.export("mnist_cnn")).predict(image)
    print(f"the first test image is of class {label}, and predicted as {int(predicted)}")
    return learn.recorder.final[1]


if __name__ == "__main__":
    main()
