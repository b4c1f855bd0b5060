"""Everything that changes weights. Imports `eval`, never `analysis`."""

import codecs
import locale

import eval as _eval  # noqa: F401  before any library: it keeps them quiet


def read_text_as_utf8() -> None:
    """Let files that libraries open without naming an encoding be read as UTF-8, whatever the locale.

    TRL's templates are such files. Without a locale Python takes UTF-8 by itself, unless PYTHONUTF8=0 forbids it.
    """
    if codecs.lookup(locale.getpreferredencoding(False)).name == "utf-8":
        return
    for name in ("C.UTF-8", "C.utf8", "en_US.UTF-8"):
        try:
            locale.setlocale(locale.LC_CTYPE, name)
            return
        except locale.Error:
            continue


read_text_as_utf8()
