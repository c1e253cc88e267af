# The C half of `signal`, which the hot path imports without its Python half (enum costs 4 ms).
from signal import *  # noqa: F403
from signal import NSIG as NSIG
from signal import SIG_DFL as SIG_DFL
from signal import SIG_IGN as SIG_IGN
