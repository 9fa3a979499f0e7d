"""Writes a wheel of the package steer3d around a native module that is built already, with what pyproject.toml says; see
scripts/python. A wheel for others is built by `make wheel`.

usage: wheel.py LIBRARY FOLDER
"""

import base64
import hashlib
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

try:
    import tomllib
except ImportError:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent


def main(library, folder):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    tag = f"cp310-abi3-{platform}"
    info = f"steer3d-{version}.dist-info"
    package = ROOT / "crates/python/python"
    files = {str(p.relative_to(package)): p.read_bytes() for p in package.rglob("*") if p.suffix in (".py", ".pyi", ".typed")}
    files["steer3d/py.typed"] = b""
    files["steer3d/_native.abi3.so"] = stripped(library)
    files[f"{info}/METADATA"] = metadata(project, version).encode()
    files[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: steer3d\nRoot-Is-Purelib: false\nTag: {tag}\n".encode()
    scripts = "".join(f"{name} = {place}\n" for name, place in project["scripts"].items())
    files[f"{info}/entry_points.txt"] = f"[console_scripts]\n{scripts}".encode()
    files[f"{info}/RECORD"] = record(files, info).encode()
    path = Path(folder) / f"steer3d-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in sorted(files.items()):
            wheel.writestr(name, content)
    print(path)


def stripped(library):
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "library"
        subprocess.run(["strip", "-o", out, library], check=True)
        return out.read_bytes()


def metadata(project, version):
    lines = ["Metadata-Version: 2.4", "Name: steer3d", f"Version: {version}", f"Summary: {project['description']}"]
    lines += [f"Requires-Python: {project['requires-python']}"]
    lines += [f"Requires-Dist: {dependency}" for dependency in project["dependencies"]]
    return "\n".join(lines) + "\n"


def record(files, info):
    def line(name, content):
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        return f"{name},sha256={digest},{len(content)}\n"

    return "".join(line(name, content) for name, content in sorted(files.items())) + f"{info}/RECORD,,\n"


if __name__ == "__main__":
    main(*sys.argv[1:])
