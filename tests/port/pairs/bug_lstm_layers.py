"""The second layer gets the first layer's state of the step before."""

import torch
import torch.nn.functional as F
from corpus import Bug
from pairs.charrnn_cells import CellRNN, example, model, run_source
from pairs.charrnn_lstm import V, start

__all__ = ["example", "model", "run_source"]
expect = Bug(
    "charrnn_cells",
    (("input", "state", "takes"),),
    layer=("cells.1",),
    line="self.cells[1](h1, (h2, c2))",
)


class Net(CellRNN):
    def forward(self, x):
        c1, h1, c2, h2 = start()
        out = []
        for one_hot in F.one_hot(x, V).double():
            h2, c2 = self.cells[1](h1, (h2, c2))
            h1, c1 = self.cells[0](one_hot, (h1, c1))
            out.append(self.decoder(h2).log_softmax(-1))
        return torch.stack(out)


target = Net
