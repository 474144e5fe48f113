"""ULMFiT in miniature: a language model learns from reviews, and its encoder makes a classifier of few of them better.

    python examples/text.py reviews.csv     # columns text and label

The same program trains on many processes: ``dist-ai launch examples/text.py reviews.csv --workers 2``.
"""

import sys
from pathlib import Path

from dist_ai.data import Table
from dist_ai.metrics import Perplexity, accuracy
from dist_ai.text import TextDataLoaders, language_model_learner, text_classifier_learner

rows = Table.from_csv(Path(sys.argv[1]))
size = {"emb_sz": 100, "n_hid": 150, "n_layers": 2}

dls_lm = TextDataLoaders.from_df(rows, text_col="text", is_lm=True, bs=32, seq_len=30)
learn = language_model_learner(dls_lm, "awd_lstm", config=size, drop_mult=0.3, metrics=Perplexity())
learn.fit_one_cycle(4, 2e-2)
encoder = learn.save_encoder("models/encoder")
print(learn.predict("The film is", 12, temperature=0.7))

dls = TextDataLoaders.from_df(rows, text_col="text", label_col="label", text_vocab=dls_lm.tokenize, bs=32)
learn = text_classifier_learner(dls, "awd_lstm", config=size, drop_mult=0.3, metrics=accuracy, pretrained=encoder)
learn.fit_one_cycle(1, 2e-2)
learn.unfreeze()
learn.fit_one_cycle(4, slice(4e-3, 2e-2))
print(f"accuracy {learn.recorder.final[1]:.3f}")
learn.export("export")
