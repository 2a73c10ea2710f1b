"""The Human Protein Atlas: its table, its XML, its images, and a dataset folder of them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_web import Web, serve
from PIL import Image
from typer.testing import CliRunner

from deepgps_core.cli import app
from deepgps_core.cropping import PreprocessingConfig, normalize_field
from deepgps_core.dataset import Dataset, InputError
from deepgps_core.sources import hpa
from deepgps_core.sources._hpa_xml import antibody_of, field_id_of, read_gene_xml
from deepgps_core.sources._images import color_plane, read_image, rescale_field, to_uint16
from deepgps_core.sources.hpa_images import HPAConfig, fetch_hpa, read_jpeg_field

HTML = b"<!DOCTYPE html><html><body>Log in to the proxy</body></html>"
HEADER = "\t".join(hpa.GENE_COLUMNS)
GENES = ("ENSG00000000001", "ENSG00000000002", "ENSG00000000003")
ACCESSIONS = ("P11111", "P22222", "P33333")
TABLE = "\n".join(
    [
        HEADER,
        f"{GENES[0]}\tAAA1\tSupported\tCytosol\t\t",
        f"{GENES[1]}\tBBB1\tApproved\tNucleoplasm\t\t",
        f"{GENES[2]}\tCCC1\tEnhanced\tNucleoplasm\t\t",
        "ENSG00000000004\tDDD1\tUncertain\tCytosol\t\t",
        "ENSG00000000005\tEEE1\tEnhanced\tCytosol\tNucleoplasm\t",
        "ENSG00000000006\tFFF1\tEnhanced\tCytosol;Vesicles\t\t",
        "ENSG00000000007\tGGG1\tEnhanced\tCytosol\t\tPredicted to be secreted",
    ]
)
SEQUENCES = {"P11111": "MKVLAAGIVG" * 5, "P22222": "MSRRKWEEDD" * 6, "P33333": "MPPGGHHKTT" * 7}


def entry_xml(number: int, images: str) -> bytes:
    """Write an entry in the atlas's form: two cell lines, one antibody, tissue images beside."""
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<proteinAtlas xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" schemaVersion="2.6">
 <entry version="25" url="x"><name>GENE{number}</name>
  <identifier id="{GENES[number]}" db="Ensembl" version="109">
   <xref id="{ACCESSIONS[number]}" db="Uniprot/SWISSPROT"/></identifier>
  <tissueExpression source="HPA"><image imageType="x">
   <imageUrl>{images}/tissue/1_A_1_1_selected.jpg</imageUrl></image></tissueExpression>
  <cellExpression source="HPA" technology="ICC/IF"><summary>x</summary></cellExpression>
  <antibody id="HPA00000{number}" releaseVersion="4">
   <tissueExpression><data><tissueCell><patient><sample><assayImage><image>
    <imageUrl>{images}/9/9_blue_red_green.jpg</imageUrl>
   </image></assayImage></sample></patient></tissueCell></data></tissueExpression>
   <cellExpression source="HPA" technology="ICC/IF"><subAssay type="human">
    <verification type="reliability">approved</verification>
    <data><cellLine organ="Mesenchymal">U-2 OS</cellLine>
     <location status="main" GOId="GO:0005829">cytosol</location>
     <assayImage><image imageType="selected"><channel color="blue">nucleus</channel>
      <imageUrl>{images}/{number}/56_F11_1_blue_red_green.jpg</imageUrl></image>
      <image><imageUrl>{images}/{number}/56_F11_1_red_green.jpg</imageUrl></image>
      <image><imageUrl>{images}/{number}/57_F11_17_cr5af971a263864_blue_red_green.jpg</imageUrl>
      </image></assayImage></data>
    <data><cellLine organ="Skin">A-431</cellLine><assayImage><image>
      <imageUrl>{images}/{number}/60_F11_1_blue_red_green.jpg</imageUrl></image></assayImage>
    </data></subAssay></cellExpression></antibody>
 </entry></proteinAtlas>""".encode()


def jpeg(color: str, seed: int, size: int = 700) -> bytes:
    """Draw four round nuclei (blue), or cells with a hole there (green), as an RGB JPEG."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    plane = np.zeros((size, size))
    for cy, cx in ((200, 200), (200, 500), (500, 200), (500, 500)):
        near = np.hypot(y - cy, x - cx)
        inside = near < 75
        plane += 180 * inside if color == "blue" else 150 * ((near < 130) & ~inside)
    image = np.zeros((size, size, 3), dtype=np.uint8)
    noisy = plane + rng.normal(20, 4, plane.shape)
    image[..., 2 if color == "blue" else 1] = np.clip(noisy, 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def zipped(name: str, content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return stream.getvalue()


@pytest.fixture()
def atlas() -> Iterator[Web]:
    """Serve three genes of the atlas with their images, and UniProt's sequences of them."""
    with serve() as web:
        web.headers["X-UniProt-Release"] = "2026_04"
        web.answers[f"/{hpa.TABLE_PATH}"] = zipped("subcellular_location.tsv", TABLE.encode())
        pictures = {color: jpeg(color, 0) for color in ("blue", "green")}
        for number, gene in enumerate(GENES):
            web.answers[f"/{gene}.xml"] = entry_xml(number, f"{web.address}/images")
            for name in ("56_F11_1", "57_F11_17_cr5af971a263864"):
                for color, content in pictures.items():
                    web.answers[f"/images/{number}/{name}_{color}.jpg"] = content

        def fasta(query: object) -> bytes:
            wanted = query["accessions"][0].split(",")  # type: ignore[index]
            records = [f">sp|{a}|X_HUMAN\n{SEQUENCES[a]}\n" for a in wanted if a in SEQUENCES]
            return "".join(records).encode()

        web.answers["/uniprotkb/accessions"] = fasta
        yield web


def config_of(web: Web, **options: object) -> HPAConfig:
    return HPAConfig(site=web.address, uniprot_url=f"{web.address}/uniprotkb", **options)  # type: ignore[arg-type]


def test_single_location_rules(tmp_path: Path) -> None:
    """Uncertain, additional and extracellular locations rule a gene out; labels take turns."""
    path = tmp_path / "t.tsv"
    path.write_text(TABLE)
    genes = hpa.read_gene_table(path)
    strict = hpa.single_location_genes(genes)
    assert list(strict["Gene name"]) == ["AAA1", "BBB1", "CCC1"]
    assert list(strict["label"]) == ["Cytoplasm", "Nucleus", "Nucleus"]
    loose = hpa.single_location_genes(genes, strict=False)
    assert set(loose["Gene name"]) == {"AAA1", "BBB1", "CCC1", "EEE1", "GGG1"}
    counts = hpa.count_genes(genes).set_index("rule")
    assert list(counts["Cytosol"]) == [4, 3, 2, 1, 1, 0]
    assert list(counts["sum"]) == [6, 5, 4, 3, 2, 1]
    with pytest.raises(InputError, match="reliability 'Good' is unknown"):
        hpa.single_location_genes(genes, reliability=["Good"])


def test_table_forms_and_damage(tmp_path: Path) -> None:
    """Zipped and plain tables are equal; another table, a bomb and a page are refused."""
    plain, packed = tmp_path / "t.tsv", tmp_path / "t.zip"
    plain.write_text(TABLE)
    packed.write_bytes(zipped("t.tsv", TABLE.encode()))
    pd.testing.assert_frame_equal(hpa.read_gene_table(plain), hpa.read_gene_table(packed))
    plain.write_text("a\tb\n1\t2\n")
    with pytest.raises(InputError, match="column 'Gene' is missing"):
        hpa.read_gene_table(plain)
    packed.write_bytes(zipped("t.tsv", b"\0" * (hpa.MAX_TABLE_BYTES + 10)))
    with pytest.raises(InputError, match="larger than 200,000,000 bytes unpacked"):
        hpa.read_gene_table(packed)
    packed.write_bytes(HTML)
    with pytest.raises(InputError, match="damaged"):
        hpa.read_gene_table(packed)


def test_kaggle_table(tmp_path: Path) -> None:
    """Images are counted by cell line; single locations of the two places have a label."""
    path = tmp_path / "kaggle_2021.tsv"
    path.write_text(
        "Image,Label,Label_idx,Cellline,in_trainset\n"
        "http://i/1/56_F11_1_,Cytosol,16,U-2 OS,False\n"
        'http://i/1/56_F11_2_,"Cytosol,Nucleoplasm",16|0,U-2 OS,True\n'
        "http://i/1/57_F11_1_,Nucleoplasm,0,A-431,False\n"
    )
    images = hpa.read_kaggle_table(path)
    assert list(images["label"]) == ["Cytoplasm", "", "Nucleus"]
    assert images["name"][0] == "56_F11_1" and images["locations"][1] == "Cytosol;Nucleoplasm"
    counts = hpa.count_images(images)
    assert counts["share"] == pytest.approx(2 / 3)
    assert (counts["Cytosol"], counts["Nucleoplasm"]) == (1, 0)


def test_xml_gives_fields_by_cell_line(tmp_path: Path) -> None:
    """Only immunofluorescence images count, each field once, suffixes kept."""
    path = tmp_path / "e.xml"
    path.write_bytes(entry_xml(0, "https://images.example"))
    entry = read_gene_xml(path)
    assert (entry.gene_id, entry.gene, entry.uniprot) == (GENES[0], "GENE0", ["P11111"])
    found = [(field.cell_line, field.name) for field in entry.fields]
    assert found == [
        ("U-2 OS", "56_F11_1"), ("U-2 OS", "57_F11_17_cr5af971a263864"), ("A-431", "60_F11_1"),
    ]  # fmt: skip
    field = entry.fields[1]
    assert field.url("green").endswith("/0/57_F11_17_cr5af971a263864_green.jpg")
    assert field.locations == ("cytosol",) and field.antibody == "HPA000000"
    fields_of = [antibody_of(field_id_of(field)) for field in entry.fields]
    assert fields_of == ["HPA000000"] * 3, "fields of one antibody are told apart"


def test_a_field_without_an_antibody_is_refused() -> None:
    """Fields of other sources have no antibody in their name."""
    for name in ("HPA012345", "", "_57_F11_1", "a.b_57"):
        with pytest.raises(ValueError, match="names no antibody"):
            antibody_of(name)


BOMB = b"""<?xml version="1.0"?><!DOCTYPE z [<!ENTITY a "aaaaaaaaaa">
<!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;">]><z>&c;</z>"""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB, "declares a document type or entities"),
        (b'<!DOCTYPE z SYSTEM "file:///etc/passwd"><z/>', "declares a document type"),
        (b"<a>" * 60 + b"</a>" * 60, "nest over 40 deep"),
        (HTML, "document type"),
        (b"<proteinAtlas><entry>", "no XML"),
        (b"<proteinAtlas></proteinAtlas>", "no entry of the Human Protein Atlas"),
        (b'<entry><identifier id="E"/><antibody id="../../x"/></entry>', "is no name of the"),
    ],
)
def test_hostile_xml_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """Bombs, external entities, deep nesting and other documents end in one line."""
    path = tmp_path / "e.xml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_gene_xml(path)
    assert "\n" not in str(caught.value)


def test_large_xml_stays_small_in_memory(tmp_path: Path) -> None:
    """A long entry is read in a small part of its size."""
    import tracemalloc

    path = tmp_path / "e.xml"
    head, tail = entry_xml(0, "https://i").split(b"<antibody", 1)
    filler = b"<rnaExpression><data><level>1.0</level><RNASample>xxxxxxxx</RNASample></data>"
    path.write_bytes(head + (filler + b"</rnaExpression>") * 15_000 + b"<antibody" + tail)
    tracemalloc.start()
    entry = read_gene_xml(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(entry.fields) == 3 and peak < 0.5e6
    with pytest.raises(InputError, match="larger than 1,000 bytes"):
        read_gene_xml(path, max_bytes=1000)


def test_rescaling_keeps_places_and_brightness() -> None:
    """A square of 100 pixels at 0.08 µm is one of 38.8 at 0.206, as bright, and stays in place."""
    field = np.full((2, 400, 400), 1000, dtype=np.uint16)
    field[:, 100:200, 200:300] = 9000
    small = rescale_field(field, 0.08, 0.206)
    assert small.shape == (2, 155, 155) and small.dtype == np.uint16
    bright = small[0] > 5000
    assert np.sqrt(bright.sum()) == pytest.approx(100 * 0.08 / 0.206, abs=1)
    assert np.argwhere(bright).mean(axis=0) == pytest.approx(
        np.array([149.5, 249.5]) * 155 / 400, abs=0.6
    )
    assert small.mean() == pytest.approx(field.mean(), rel=0.01)
    assert rescale_field(field, 0.206, 0.2061) is field
    assert rescale_field(field, 0.4, 0.2).shape == (2, 800, 800)


def test_channels_of_a_picture(tmp_path: Path) -> None:
    """Blue is the nucleus and green the protein; gray pictures are what they are."""
    for color in ("blue", "green"):
        (tmp_path / f"{color}.jpg").write_bytes(jpeg(color, 1))
    field = read_jpeg_field(tmp_path / "blue.jpg", tmp_path / "green.jpg")
    assert field.shape == (2, 272, 272)
    center = round(200 * 0.08 / 0.206)
    assert field[0, center, center] > 40_000 and field[1, center, center] < 15_000
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert color_plane(gray, "green") is gray
    with pytest.raises(InputError, match="neither gray nor RGB"):
        color_plane(np.zeros((2, 3, 5)), "green")
    (tmp_path / "page.jpg").write_bytes(HTML)
    with pytest.raises(InputError, match="a web page, perhaps of a proxy"):
        read_image(tmp_path / "page.jpg")
    (tmp_path / "page.tif").write_bytes(HTML)
    with pytest.raises(InputError, match="a web page, perhaps of a proxy"):
        read_image(tmp_path / "page.tif")
    huge = Image.new("1", (20_000, 20_000))
    huge.save(tmp_path / "bomb.png")
    with pytest.raises(InputError, match="damaged|over 8192 pixels"):
        read_image(tmp_path / "bomb.png")


def test_fetch_makes_a_dataset(atlas: Web, tmp_path: Path) -> None:
    """Three genes, two fields each in U-2 OS, become a dataset; a second run fetches nothing."""
    dataset, report = fetch_hpa(tmp_path / "hpa", config_of(atlas))
    assert report.failed == {} and dataset is not None
    assert list(dataset.proteins["protein_id"]) == list(GENES[:2] + GENES[2:])
    assert dataset.sequences()[GENES[1]] == SEQUENCES["P22222"]
    assert list(dataset.proteins["label"]) == ["Cytoplasm", "Nucleus", "Nucleus"]
    assert len(dataset.fields) == 6 and dataset.info.cell_line == "U-2 OS"
    assert dataset.info.pixel_size_um == 0.206 and "2026_04" in dataset.info.release
    assert dataset.read_field("HPA000000_56_F11_1").shape == (2, 272, 272)
    before = {path: path.read_bytes() for path in (tmp_path / "hpa").rglob("*.*") if path.is_file()}
    asked = sum(n for path, n in atlas.asked.items() if path.endswith((".jpg", ".xml")))
    fetch_hpa(tmp_path / "hpa", config_of(atlas))
    assert sum(n for p, n in atlas.asked.items() if p.endswith((".jpg", ".xml"))) == asked
    assert before == {path: path.read_bytes() for path in before}


def test_one_bad_file_never_stops_the_rest(atlas: Web, tmp_path: Path) -> None:
    """A page in place of a JPEG, a missing gene and an unknown accession are listed."""
    atlas.answers["/images/0/56_F11_1_green.jpg"] = HTML
    atlas.answers[f"/{GENES[1]}.xml"] = 404
    atlas.answers[f"/{GENES[2]}.xml"] = entry_xml(2, atlas.address).replace(b"P33333", b"P99999")
    dataset, report = fetch_hpa(tmp_path / "hpa", config_of(atlas))
    assert dataset is not None
    assert list(dataset.fields["field_id"]) == ["HPA000000_57_F11_17_cr5af971a263864"]
    causes = report.describe()
    assert "HTML page" in causes and "404" in causes and "P99999: is unknown to UniProt" in causes
    atlas.answers["/images/0/56_F11_1_green.jpg"] = jpeg("green", 0)
    again, report = fetch_hpa(tmp_path / "hpa", config_of(atlas))
    assert again is not None and len(again.fields) == 2


def test_other_cell_line_limit_and_dry_run(atlas: Web, tmp_path: Path) -> None:
    """An unknown cell line is named; a dry run asks for no entry; the limit counts genes."""
    with pytest.raises(InputError, match="no field of cell line 'U2OS'"):
        fetch_hpa(tmp_path / "a", config_of(atlas, cell_line="U2OS"))
    atlas.asked.clear()
    dataset, report = fetch_hpa(tmp_path / "b", config_of(atlas), dry_run=True)
    assert dataset is None and set(atlas.asked) == {f"/{hpa.TABLE_PATH}"}
    assert report.describe().startswith("would fetch 27 files")
    dataset, _ = fetch_hpa(tmp_path / "c", config_of(atlas, fields_per_gene=1), limit=2)
    assert dataset is not None and len(dataset.proteins) == 2 and len(dataset.fields) == 2
    assert set(dataset.proteins["label"]) == {"Cytoplasm", "Nucleus"}


def test_kaggle_restricts_fields(atlas: Web, tmp_path: Path) -> None:
    """Only the fields that the Kaggle table lists for the cell line are used."""
    table = tmp_path / "kaggle_2021.tsv"
    table.write_text("Image,Label,Cellline\nhttp://i/0/56_F11_1,Cytosol,U-2 OS\n")
    dataset, _ = fetch_hpa(tmp_path / "hpa", config_of(atlas), kaggle=table)
    assert dataset is not None
    assert {name.split("_", 1)[1] for name in dataset.fields["field_id"]} == {"56_F11_1"}


def test_command_line(atlas: Web, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`deepgps fetch hpa` makes the dataset, lists what is missing, and exits with 1 then."""
    monkeypatch.setenv("DEEPGPS_UNIPROT_URL", f"{atlas.address}/uniprotkb")
    command = ["fetch", "hpa", "u2os", "--site", atlas.address, "--fields-per-gene", "1"]
    done = CliRunner().invoke(app, [*command, "--limit", "2"])
    assert done.exit_code == 0, done.output
    assert "2 fields (measured); 1 cytoplasm, 1 nucleus" in done.output
    assert len(Dataset(data_root / "u2os").fields) == 2
    atlas.answers[f"/{GENES[2]}.xml"] = BOMB
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1 and "declares a document type or entities" in done.output
    planned = CliRunner().invoke(app, [*command, "--dry-run"])
    assert planned.exit_code == 0 and "would fetch 9 files" in planned.output


def test_without_a_network_it_says_so(tmp_path: Path) -> None:
    """A closed port is no network: one line that names the way without."""
    with pytest.raises(InputError, match="cannot be reached"):
        fetch_hpa(tmp_path / "hpa", HPAConfig(site="http://127.0.0.1:9"))


@pytest.mark.slow
def test_fetched_fields_become_crops(atlas: Web, tmp_path: Path) -> None:
    """From the atlas's JPEGs to crops, with the code that every dataset goes through."""
    from deepgps_core.preprocessing import prepare

    dataset, _ = fetch_hpa(tmp_path / "hpa", config_of(atlas), limit=2)
    assert dataset is not None
    prepared = prepare(dataset, PreprocessingConfig(border_rule="shift"), workers=1)
    assert len(prepared.nuclei) == 4 * len(dataset.fields) == len(prepared.crops)
    images, masks = prepared.crop_images[:], prepared.nuclear_masks[:]
    assert (images[:, 1] * ~masks).mean() > 2 * (images[:, 1] * masks).mean()  # drawn around them


@pytest.mark.real_data
def test_real_gene_table_counts(real_data: Path) -> None:
    """The atlas's own table: 857 cytosolic and 1,688 nucleoplasmic genes under the defaults."""
    genes = hpa.read_gene_table(real_data / "hpa" / "subcellular_location.tsv.gz")
    counts = hpa.count_genes(genes).set_index("rule")
    assert list(counts["Cytosol"]) == [1546, 966, 916, 857, 383, 116]
    assert list(counts["Nucleoplasm"]) == [3328, 1789, 1762, 1688, 989, 440]
    assert len(hpa.single_location_genes(genes)) == 857 + 1688


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "expected_um"), [("57_F11_1", (10, 25)), ("383_D2_1", (10, 25))], ids=["MTM1", "RPL4"]
)
def test_real_fields_go_through_preprocessing(
    real_data: Path, name: str, expected_um: tuple[float, float]
) -> None:
    """Real fields, rescaled, give nuclei of a cell's size, most of them whole crops."""
    from deepgps_core.preprocessing import NucleusSegmenter, crop_origins, select_nuclei

    folder = real_data / "hpa" / "identified"
    field = read_jpeg_field(folder / f"{name}_blue.png", folder / f"{name}_green.png")
    assert min(field.shape[1:]) in (671, 795)
    config = PreprocessingConfig()
    nuclei = NucleusSegmenter()(normalize_field(field, config)[0])
    nuclei = nuclei[select_nuclei(nuclei, config)]
    diameter_um = 2 * np.sqrt(np.median(nuclei.area_px) / np.pi) * 0.206
    assert expected_um[0] < diameter_um < expected_um[1]
    _, kept = crop_origins(nuclei.centroids, field.shape[1:], config)
    assert len(nuclei) >= 8 and kept.sum() >= 4


def test_uint16_of_16_bits_is_untouched() -> None:
    """Sixteen bits stay as they are."""
    image = np.array([0, 7, 65535], dtype=np.uint16)
    assert (to_uint16(image) == image).all()
