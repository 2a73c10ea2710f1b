"""Sequences from FASTA and from UniProt: what is accepted, and one line for what is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from fault_server import FaultServer, Handler, fault_server
from hypothesis import given
from hypothesis import strategies as st

from deepgps_core.dataset import AMINO_ACIDS, InputError
from deepgps_core.sources.uniprot import fetch_sequences, protein_id_of, read_fasta


def test_wrapped_lower_case_and_stop_sign() -> None:
    """Line breaks, spaces, case and a final stop do not change a sequence."""
    text = ">first some words\r\nMKT L\r\nvvk*\r\n\r\n>second\nAC\n"
    assert read_fasta(text) == {"first": "MKTLVVK", "second": "AC"}


def test_uniprot_headers_give_accessions(tmp_path: Path) -> None:
    """Swiss-Prot and TrEMBL headers are named by accession; a byte order mark does no harm."""
    path = tmp_path / "two.fasta"
    path.write_text("\ufeff>sp|Q16630|CPSF6_HUMAN Factor\nMA\n>tr|A0A024|X_HUMAN\nMC\n", "utf-8")
    assert read_fasta(path) == {"Q16630": "MA", "A0A024": "MC"}
    assert protein_id_of("sp|P12345-2|NAME isoform") == "P12345-2"


@given(st.dictionaries(st.from_regex(r"[A-Za-z0-9_.]{1,12}", fullmatch=True),
                       st.text(AMINO_ACIDS, min_size=1, max_size=200), min_size=1, max_size=5),
       st.integers(1, 80))  # fmt: skip
def test_round_trip(sequences: dict[str, str], width: int) -> None:
    """Whatever is written, wrapped at any width, is read back in order."""
    lines = []
    for name, sequence in sequences.items():
        lines.append(f">{name}")
        lines += [sequence[i : i + width] for i in range(0, len(sequence), width)]
    found = read_fasta("\n".join(lines))
    assert list(found.items()) == list(sequences.items())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (">a\nMK1L\n", "letters that are no amino acids: 1"),
        (">a\nMK\n>a\nMV\n", "line 3 repeats protein 'a'"),
        (">a\n>b\nMK\n", "'a' has an empty sequence"),
        (">\nMK\n", "line 1 is a header without a name"),
        ("MKV\n>a\nMK\n", "line 1 stands before the first header"),
        ("\n\n", "holds no sequences"),
        (">a\n" + "M" * 2701, "2701 residues"),
    ],
)
def test_bad_input_is_named_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    """Each mistake is an InputError of one line that names the file and what is wrong."""
    path = tmp_path / "bad.fasta"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_fasta(path)
    assert said in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\xff", b">a\nMK\x00\n", b"II*\x00"])
def test_binary_files_are_refused(tmp_path: Path, content: bytes) -> None:
    """An image given by mistake is recognized as no text."""
    path = tmp_path / "image.fasta"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a text file"):
        read_fasta(path)


def test_missing_and_oversized_files(tmp_path: Path) -> None:
    """A path that leads nowhere, a folder, and a file over the limit are refused."""
    path = tmp_path / "large.fasta"
    path.write_text(">a\nMKV\n")
    with pytest.raises(InputError, match="larger than 5 bytes"):
        read_fasta(path, max_bytes=5)
    for wrong in (tmp_path / "none.fasta", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            read_fasta(wrong)


class Service:
    """A UniProt that knows a few proteins, on a server of the test."""

    def __init__(self, server: FaultServer) -> None:
        self.server = server
        self.url = f"{server.url}/uniprotkb"
        self.asked: list[list[str]] = []
        self.batch_status = 200
        service = self

        class Paths(dict):
            def get(self, path: str, default: Any = None) -> Any:
                return service.batch if "/accessions" in path else super().get(path, default)

        server.faults = Paths()

    def batch(self, number: int, handler: Handler) -> None:
        names = parse_qs(urlsplit(handler.path).query)["accessions"][0].split(",")
        self.asked.append(names)
        known = {name: self.server.files.get(f"/uniprotkb/{name}.fasta") for name in names}
        body = b"".join(text for text in known.values() if text and text.count(b">") == 1)
        handler.answer(self.batch_status, body, X_UniProt_Release="2026_04")

    def hold(self, accession: str, *records: tuple[str, str]) -> None:
        text = "".join(f">sp|{name}|X_HUMAN Some\n{sequence}\n" for name, sequence in records)
        self.server.files[f"/uniprotkb/{accession}.fasta"] = text.encode()


@pytest.fixture()
def service() -> Iterator[Service]:
    with fault_server() as server:
        service = Service(server)
        for i in range(250):
            service.hold(f"P{i:05d}", (f"P{i:05d}", "M" + "ACDEF"[i % 5] * (i + 1)))
        service.hold("P12345-2", ("P12345-2", "MKV"))
        service.hold("Q00001", ("Q99999", "MKL"))  # filed under another accession
        service.hold("Q00002")  # removed
        service.hold("Q00003", ("Q00003-1", "MK"), ("Q00003-2", "MKK"))
        service.hold("Q00004", ("Q11111", "MK"), ("Q22222", "MKK"))
        yield service


def test_batches_and_cache(service: Service, tmp_path: Path) -> None:
    """Each accession is asked for once, a hundred at a time, and is in the file afterwards."""
    names, cache = [f"P{i:05d}" for i in range(250)], tmp_path / "x" / "seq.fasta"
    first = fetch_sequences(names[:230], cache, base_url=service.url)
    assert [len(batch) for batch in service.asked] == [100, 100, 30] and not first.failed
    assert first.sequences["P00007"] == "M" + "D" * 8 and first.release == "UniProt 2026_04"
    assert len(first.sequences) == 230 and read_fasta(cache) == first.sequences
    second = fetch_sequences(names, cache, base_url=service.url)
    assert service.asked[3] == names[230:] and list(second.sequences) == names
    again = fetch_sequences(names, cache, base_url="http://127.0.0.1:9")
    assert again.sequences == second.sequences and again.release == "UniProt 2026_04"


def test_accessions_that_give_no_sequence(service: Service, tmp_path: Path) -> None:
    """Unknown, removed, ambiguous and malformed accessions are listed with their reason."""
    asked = ["P00001", "P12345-2", "Q00001", "Q00002", "Q00003", "Q00004", "Q55555", "BRCA1",
             "P00002;P00003"]  # fmt: skip
    found = fetch_sequences(asked, tmp_path / "s.fasta", base_url=service.url)
    assert found.sequences == {"P00001": "MCC", "P12345-2": "MKV", "Q00001": "MKL"}
    assert found.renamed == {"Q00001": "Q99999"}
    assert found.failed["Q00002"].startswith("was removed")
    assert found.failed["Q00003"] == "has several isoforms; name one of Q00003-1, Q00003-2"
    assert found.failed["Q00004"].startswith("became several entries")
    assert found.failed["Q55555"].startswith("is unknown to UniProt")
    assert found.failed["BRCA1"].startswith("is no UniProt accession")
    assert found.failed["P00002;P00003"].startswith("names several")


def test_a_refused_batch_is_asked_one_by_one(service: Service, tmp_path: Path) -> None:
    """One accession that the service cannot read does not cost the others."""
    service.batch_status = 400
    found = fetch_sequences(["P00001", "P00002"], tmp_path / "s.fasta", base_url=service.url)
    assert len(found.sequences) == 2 and not found.failed


def test_interrupted_and_nonsense(service: Service, tmp_path: Path) -> None:
    """What came before a failure stays; a page of HTML is no sequence."""
    names, cache = [f"P{i:05d}" for i in range(150)], tmp_path / "s.fasta"
    good = service.batch

    def dies(number: int, handler: Handler) -> None:
        if len(service.asked) == 1:
            return handler.answer(200, b"<html>maintenance</html>")
        return good(number, handler)

    service.batch = dies  # type: ignore[method-assign]
    with pytest.raises(InputError, match="answered no FASTA but '<html>"):
        fetch_sequences(names, cache, base_url=service.url)
    assert len(read_fasta(cache)) == 100
    service.batch = good  # type: ignore[method-assign]
    undisturbed = fetch_sequences(names, tmp_path / "t.fasta", base_url=service.url)
    assert fetch_sequences(names, cache, base_url=service.url).sequences == undisturbed.sequences
    assert cache.read_bytes() == (tmp_path / "t.fasta").read_bytes()


def test_no_network(tmp_path: Path) -> None:
    """Without a network it says so, with what works without one."""
    with pytest.raises(InputError, match="deepgps simulate embedded-demo"):
        fetch_sequences(["P00001"], tmp_path / "s.fasta", base_url="http://127.0.0.1:9")
