from jills import activations, adam, ills, losses, results, solvers
from jills.network import Network
from jills.run import run
from jills.types import *
