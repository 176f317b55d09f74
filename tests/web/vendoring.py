"""Which libraries of others ``pipeline/web/vendor`` holds; ``python -m tests.web.vendoring`` fetches them again, with npm.

They are part of the package, because pages are made where there is no network and no npm.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.web import VENDOR

__all__ = ["LIBRARIES", "Library", "fetch_all"]


@dataclass(frozen=True)
class Library:
    """One file of a package on npm.

    Attributes:
        package: name on npm.
        version: exact.
        integrity: SHA-512 of the package's archive in base64, as npm's lock files hold it.
        file: path of the file in the archive.
        license_file: path of its licence in the archive.
        sha256: of the file.
    """

    package: str
    version: str
    integrity: str
    file: str
    license_file: str
    sha256: str

    @property
    def path(self) -> Path:
        """Where the file lies here."""
        return VENDOR / Path(self.file).name

    @property
    def license_path(self) -> Path:
        """Where its licence lies here."""
        return VENDOR / f"{self.package.replace('@', '').replace('/', '-')}.license.txt"


LIBRARIES = (
    Library(
        package="d3",
        version="7.9.2",
        integrity="ZKb/mONPVKzaO5UlcWcwN8bS4ezvQaYu+bsou+XgNABdGC800kwH651ADTbbTxMPHW13UlvbQafdmJQDk1w7Mg==",
        file="package/dist/d3.min.js",
        license_file="package/LICENSE",
        sha256="912111098ea99503a6f4967361d2bbdc9dbf58cf9c678c8e27e5b02d1a07f0c1",
    ),
    Library(
        package="@observablehq/plot",
        version="0.6.17",
        integrity="/qaXP/7mc4MUS0s4cPPFASDRjtsWp85/TbfsciqDgU1HwYixbSbbytNuInD8AcTYC3xaxACgVX06agdfQy9W+g==",
        file="package/dist/plot.umd.min.js",
        license_file="package/LICENSE",
        sha256="4358086467740777dd788d6b27a95cebdbaefdd50c730a3060117073bd7134cb",
    ),
    Library(
        package="datatables.net",
        version="3.1.5",
        integrity="phu9fVz1cOhD7kZDO5Ztj15qwghCkmdwX5AezLi+PxfMtnFAq0itpewvXzdwdr6bOwPqO2zuXsXWUU5x3wQptw==",
        file="package/js/dataTables.min.js",
        license_file="package/License.txt",
        sha256="38017a5586acd9c6eb6bbfe8b6938e1a25bdc717c5acfcb07e0c9d663282c59d",
    ),
    Library(
        package="openseadragon",
        version="6.1.1",
        integrity="g4iKe2q8B642SaBT3+x4ZF3/8b1TxPPydyjmtrOLgDrlYWMKd9ZXM+1Cb/xa9DVySkvs/7l6HR1nHKfD5F3Tsw==",
        file="package/build/openseadragon/openseadragon.min.js",
        license_file="package/LICENSE.txt",
        sha256="14d587cd3ee7c4861f1a41077ce642029364a21029956ba635bd8fb1202cf9ad",
    ),
)


def fetch_all() -> None:
    """Fetch every file with npm and write it into ``vendor``.

    Raises:
        ValueError: an archive or a file is not the one that is named here.
        OSError, subprocess.CalledProcessError: npm is not installed, or cannot fetch a package.
    """
    for library in LIBRARIES:
        name = f"{library.package}@{library.version}"
        with TemporaryDirectory() as folder:
            subprocess.run(["npm", "pack", "--silent", name], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            archive = next(Path(folder).glob("*.tgz")).read_bytes()
        if b64encode(hashlib.sha512(archive).digest()).decode() != library.integrity:
            raise ValueError(f"{name}: another archive than the one that is named here")
        with tarfile.open(fileobj=io.BytesIO(archive)) as members:
            for path_inside, path in ((library.file, library.path), (library.license_file, library.license_path)):
                member = members.extractfile(path_inside)
                if member is None:
                    raise ValueError(f"{name}: {path_inside} is no file")
                path.write_bytes(member.read())
        if hashlib.sha256(library.path.read_bytes()).hexdigest() != library.sha256:
            raise ValueError(f"{name}: {library.file} has other bytes than expected")


if __name__ == "__main__":
    fetch_all()
