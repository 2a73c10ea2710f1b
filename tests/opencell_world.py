"""Servers that hold a small OpenCell: tables and UniProt on one, images on an S3 server."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import numpy as np
import tifffile
from fault_server import FaultServer, Handler, fault_server
from moto.server import ThreadedMotoServer

BUCKET = "czb-opencell"
LETTERS = np.array(list("ACDEFGHIKLMNPQRSTVWY"))


@dataclass
class Target:
    """One tagged protein; `library_gene` and `library_ensg` where the library has others."""

    gene: str
    ensg: str
    uniprot: str
    grade_3: str
    grade_2: str = ""
    residues: int = 120
    fields: int = 2
    library_gene: str = ""
    library_ensg: str = ""

    @property
    def sequence(self) -> str:
        rng = np.random.default_rng(int(self.ensg[-6:]))
        return "M" + "".join(rng.choice(LETTERS, self.residues - 1))


def small_targets() -> list[Target]:
    """Return twelve targets with each oddity of the real tables."""
    cytoplasmic = [
        Target(f"CYT{i}", f"ENSG0000000010{i}", f"P1000{i}", "cytoplasmic") for i in range(4)
    ]
    nuclear = [
        Target(f"NUC{i}", f"ENSG0000000020{i}", f"P2000{i}", "nucleoplasm", "chromatin")
        for i in range(4)
    ]
    return [
        *cytoplasmic, *nuclear,
        Target("LONG1", "ENSG00000000301", "P30001", "cytoplasmic", residues=2701),
        Target("BOTH1", "ENSG00000000302", "P30002", "nucleoplasm;cytoplasmic", "er"),
        Target("FALL1", "ENSG00000000303", "P30003", "", "vesicles"),
        # one gene, two Ensembl ids; and a name that differs in case where the ids agree
        Target("MOVED1", "ENSG00000000304", "P30004", "er", library_ensg="ENSG00000009304"),
        Target("DNAJA9", "ENSG00000000305", "P30005", "membrane", library_gene="DnaJA9"),
        # two different proteins in one place of the two tables
        Target("V1E1", "ENSG00000000306", "P30006", "golgi", library_gene="V0E1",
               library_ensg="ENSG00000009306"),
    ]  # fmt: skip


def field_bytes(seed: int, size_px: int = 64) -> bytes:
    """Return a two-channel uint16 TIFF as bytes."""
    image = np.random.default_rng(seed).integers(400, 2000, (2, size_px, size_px), np.uint16)
    stream = io.BytesIO()
    tifffile.imwrite(stream, image, metadata={"axes": "CYX"})
    return stream.getvalue()


def table_bytes(columns: list[str], rows: list[list[str]]) -> bytes:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([columns, *rows])
    return stream.getvalue().encode()


@dataclass
class World:
    """The servers and what they hold."""

    web: FaultServer
    s3_endpoint: str
    client: Any
    targets: list[Target]
    images: dict[str, bytes] = field(default_factory=dict)

    @property
    def servers(self) -> dict[str, Any]:
        """Return the keyword arguments of `fetch_opencell` that point here."""
        return {
            "hosts": [f"{self.web.url}/gone", f"{self.web.url}/data/datasets"],
            "uniprot_url": f"{self.web.url}/uniprotkb",
            "s3_endpoint": self.s3_endpoint,
        }

    def put(self, key: str, content: bytes) -> None:
        """Store an image for good; the public may read it."""
        self.replace(key, content)
        self.images[key] = content

    def replace(self, key: str, content: bytes) -> None:
        """Store an object."""
        self.client.put_object(Bucket=BUCKET, Key=key, Body=content, ACL="public-read")

    def remove(self, key: str) -> None:
        """Delete an object."""
        self.client.delete_object(Bucket=BUCKET, Key=key)

    def fill(self) -> None:
        """Write the tables and the images of all targets."""
        base = "/data/datasets/opencell-"
        self.web.files[f"{base}localization-annotations.csv"] = table_bytes(
            ["target_name", "ensg_id", "annotations_grade_3", "annotations_grade_2",
             "annotations_grade_1"],
            [[t.gene, t.ensg, t.grade_3, t.grade_2, "golgi"] for t in self.targets],
        )  # fmt: skip
        self.web.files[f"{base}library-metadata.csv"] = table_bytes(
            ["gene_name", "uniprot_id", "ensg_id", "tagged_terminus"],
            [[t.library_gene or t.gene, t.uniprot, t.library_ensg or t.ensg, "N"]
             for t in self.targets],
        )  # fmt: skip
        for number, target in enumerate(self.targets):
            for k in range(target.fields):
                self.put(key_of(target, number, k), field_bytes(10 * number + k))
                stack = key_of(target, number, k).replace("_proj", "_stack")
                self.replace(stack, b"never asked for")


def key_of(target: Target, number: int, k: int) -> str:
    """Return OpenCell's key of a target's k-th projection."""
    line = f"{target.gene}_{target.ensg}"
    name = f"OC-FOV_{line}_CID{number:06d}_FID{100 * number + k:08d}_proj.tif"
    return f"microscopy/raw/{line}/{name}"


def uniprot_answers(targets: list[Target]) -> Any:
    """Return a behavior that answers as UniProt's service does."""
    sequences = {t.uniprot: t.sequence for t in targets}

    def fasta(name: str) -> str:
        return f">sp|{name}|X_HUMAN Protein OS=Homo sapiens\n{sequences[name]}\n"

    def answer(number: int, handler: Handler) -> None:
        asked = parse_qs(urlsplit(handler.path).query)
        names = asked["accessions"][0].split(",")
        body = "".join(fasta(name) for name in names if name in sequences)
        handler.answer(200, body.encode(), X_UniProt_Release="2026_04")

    return answer


class UniProtPaths(dict):
    """Faults of a server, with UniProt's batch address under any query."""

    def __init__(self, targets: list[Target]) -> None:
        super().__init__()
        self.batch = uniprot_answers(targets)

    def get(self, path: str, default: Any = None) -> Any:  # type: ignore[override]
        if path.startswith("/uniprotkb/accessions"):
            return self.batch
        return super().get(path, default)


@contextmanager
def opencell_world(targets: list[Target] | None = None) -> Iterator[World]:
    """Run the servers; images are those of `small_targets` unless others are given."""
    s3 = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    s3.start()
    try:
        host, port = s3.get_host_and_port()
        endpoint = f"http://127.0.0.1:{port}"
        client = boto3.client(
            "s3", endpoint_url=endpoint, region_name="us-east-1",
            aws_access_key_id="writer", aws_secret_access_key="writer",
        )  # fmt: skip
        client.create_bucket(Bucket=BUCKET, ACL="public-read")
        targets = small_targets() if targets is None else targets
        with fault_server() as web:
            web.faults = UniProtPaths(targets)
            world = World(web, endpoint, client, targets)
            world.fill()
            yield world
    finally:
        s3.stop()
