"""Where the daemon is and who asks: arguments, then the environment, then ~/.config/ddimd/client.json, as ddimctl does."""
from __future__ import annotations

import json
import os
import pathlib
from typing import Dict, Optional

from .errors import DdimdError

DEFAULT_URL = "http://localhost:8080"


def _file() -> Dict[str, str]:
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    path = pathlib.Path(base) / "ddimd" / "client.json"
    try:
        settings = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as e:
        raise DdimdError(f"{path} cannot be read: {e}") from None
    if not isinstance(settings, dict) or not all(isinstance(v, str) for v in settings.values()):
        raise DdimdError(f"{path} must be a JSON object of strings")
    return settings


def find(name: str, given: Optional[str]) -> Optional[str]:
    """name: "url", "key" or "ca"."""
    if given is not None:
        return given or None
    return os.environ.get("DDIMD_" + name.upper()) or _file().get(name) or (DEFAULT_URL if name == "url" else None)
