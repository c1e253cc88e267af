# The C half of `signal`, which the hot path imports without its Python half (enum costs 4 ms).
from signal import *
from signal import SIG_DFL as SIG_DFL, SIG_IGN as SIG_IGN, NSIG as NSIG
