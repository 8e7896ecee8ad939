-- cunn: nn, and cutorch that says that there is no GPU. Layers of scripts that ask for a GPU last, or not at all, run.
require 'nn'
require 'cutorch'
return nn
