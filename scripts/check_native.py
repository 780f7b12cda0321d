"""Say whether the compiled parts load, and which system libraries they miss.

OpenCV's wheel expects the system's OpenGL and GLib libraries. A bare server has neither, and the
failure otherwise surfaces as an ImportError deep inside the first request.

Prints the Debian packages to install, one line, when a library is missing; exit code 3 then.
"""

from __future__ import annotations

import importlib
import sys

# Library (as the loader names it) and the Debian package that holds it.
DEBIAN_PACKAGES = {
    "libGL.so.1": "libgl1",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libxcb.so.1": "libxcb1",
    "libX11.so.6": "libx11-6",
    "libgomp.so.1": "libgomp1",
}
MODULES = ("cv2", "onnxruntime", "faiss")


def main() -> int:
    """Try each module; exit code 0 (all load), 3 (packages to install printed), 1 (other)."""
    packages: set[str] = set()
    for module in MODULES:
        try:
            importlib.import_module(module)
        except ImportError as error:
            known = [package for name, package in DEBIAN_PACKAGES.items() if name in str(error)]
            if not known:
                print(f"{module} cannot be loaded: {error}", file=sys.stderr)
                return 1
            # The loader names one library at a time; they are missing together.
            packages.update(known)
            if module == "cv2":
                packages.update({"libgl1", "libglib2.0-0"})
    if packages:
        print(" ".join(sorted(packages)))
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
