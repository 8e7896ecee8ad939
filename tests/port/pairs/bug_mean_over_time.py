"""Mean in place of the maximum over time."""

from corpus import Bug
from pairs.tdnn_highway import CharCNN, example, model, run_source

__all__ = ["example", "model", "run_source"]
expect = Bug("tdnn_highway", ("mean", ("max", "Max")), line="x.mean(dim=2)")


class Net(CharCNN):
    def over_time(self, x):
        return x.mean(dim=2)


target = Net
