"""Reading FASTA: what is accepted, and one line of explanation for what is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepgps_core.dataset import AMINO_ACIDS, InputError
from deepgps_core.sources.uniprot import protein_id_of, read_fasta


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
