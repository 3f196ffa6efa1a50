"""The papers' tables as printed, and the columns that they share with `evaluate.py`.

STSA: "STSA: Spatial-Temporal Semantic Alignment for Visual Dubbing", Tables I to III.
G4G: "G4G: A Generic Framework for High Fidelity Talking Face Generation with Fine-grained Intra-modal Alignment",
Tables 1 to 3.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TypeVar

GROUND_TRUTH = "GT"


@dataclass(frozen=True)
class Column:
    """A metric as a table's column: its printed name, its direction, and the number of decimals in the papers."""

    label: str
    higher_is_better: bool
    decimals: int

    @property
    def heading(self) -> str:
        return f"{self.label}{'↑' if self.higher_is_better else '↓'}"


METRICS = {
    "psnr": Column("PSNR", True, 2),
    "ssim": Column("SSIM", True, 4),
    "mse": Column("MSE", False, 4),
    "fid": Column("FID", False, 2),
    "lpips": Column("LPIPS", False, 4),
    "liplmd": Column("LipLMD", False, 5),
    "lse_d": Column("LSE-D", False, 4),
    "lse_c": Column("LSE-C", True, 4),
    "dme": Column("DME", False, 4),
    "csim": Column("CSIM", True, 4),
    "fvd": Column("FVD", False, 2),
    "closures": Column("Closures", True, 4),
    "lipleak": Column("LipLeak", False, 4),
    "flicker": Column("Flicker", False, 3),
    "sync": Column("Sync", True, 4),
}
SETS = ("fid", "fvd")  # one value of all clips together
# Metrics that need no true video of the same words, and those of them that need the dubbed video.
UNPAIRED = ("fid", "fvd", "csim", "lse_d", "lse_c", "lipleak", "flicker", "sync")
NEED_SOURCE = ("fid", "fvd", "csim")
OPINIONS = {
    "visual_quality": Column("Visual Quality", True, 2),
    "lip_synchronization": Column("Lip Synchronization", True, 2),
    "video_realness": Column("Video Realness", True, 2),
}
COLUMNS = METRICS | OPINIONS


@dataclass(frozen=True)
class PublishedTable:
    """A table of a paper.

    Attributes:
        name: its value for `--table`.
        title: the paper, the table's number and its subject.
        metrics: keys of `COLUMNS`, in the paper's order.
        rows: method name -> printed values, strings so that no digit is lost; the row `GT` is the ground truth.
        note: a remark on the printed numbers, such as a bold row that is not the best.
    """

    name: str
    title: str
    metrics: tuple[str, ...]
    rows: dict[str, tuple[str, ...]]
    note: str

    def decimals(self, metric: str) -> int:
        """The number of decimals that the paper prints in the column `metric`."""
        if metric not in self.metrics:
            return COLUMNS[metric].decimals
        column = self.metrics.index(metric)
        return max(len(row[column].partition(".")[2]) for row in self.rows.values())


def _rows(text: str) -> dict[str, tuple[str, ...]]:
    """Rows from lines "method | value value ..."."""
    rows = {}
    for line in text.strip().splitlines():
        method, _, values = line.partition("|")
        rows[method.strip()] = tuple(values.split())
    return rows


_STSA_LRS2 = PublishedTable(
    name="stsa-lrs2",
    title="STSA, Table I: LRS2",
    metrics=("psnr", "ssim", "fid", "lpips", "liplmd", "lse_d", "lse_c", "dme"),
    rows=_rows("""
        Wav2Lip  | 31.30 0.9223 30.67 0.0230 0.00918 6.4692 8.6729 0.8728
        PC-AVS   | 19.13 0.5876 84.86 0.1749 0.03594 6.7751 7.4657 0.8483
        DiffTalk | 32.60 0.9364 27.15 0.0295 0.00767 6.4842 7.7855 0.1452
        TalkLip  | 31.22 0.9256 33.49 0.0209 0.00923 6.9661 7.2275 0.6896
        IP-LAP   | 30.59 0.9172 25.11 0.0227 0.00883 8.4120 5.1110 0.4187
        DINet    | 25.04 0.8003 54.14 0.0849 0.01734 7.8405 6.0905 0.1771
        MuseTalk | 30.31 0.9058 35.21 0.0325 0.01130 7.6472 6.4835 0.1422
        Ours     | 31.73 0.9278 24.23 0.0193 0.00742 6.0970 8.3094 0.1346
        GT       | N/A   1.0000 0.00  0.0000 0.00000 6.3531 8.1217 0.0000
    """),
    note="The paper's own row (Ours) is second in PSNR and SSIM (DiffTalk leads) and in LSE-C (Wav2Lip leads).",
)
_STSA_CMLR = PublishedTable(
    name="stsa-cmlr",
    title="STSA, Table II: CMLR, cross-domain",
    metrics=("psnr", "ssim", "fid", "lpips", "liplmd", "dme"),
    rows=_rows("""
        Wav2Lip  | 29.22 0.9223 24.04  0.0176 0.00838 0.0515
        PC-AVS   | 16.30 0.4826 143.58 0.2863 0.09561 0.4061
        DiffTalk | 25.58 0.8940 23.17  0.0374 0.00821 0.0315
        TalkLip  | 29.18 0.9314 26.87  0.0150 0.00769 0.0598
        IP-LAP   | 29.38 0.9215 17.67  0.0156 0.00739 0.0517
        DINet    | 26.65 0.8703 18.77  0.0331 0.00994 0.0219
        MuseTalk | 28.13 0.8965 24.51  0.0219 0.01099 0.0271
        Ours     | 30.21 0.9280 17.07  0.0140 0.00656 0.0255
        GT       | N/A   1.0000 0.00   0.0000 0.00000 0.0000
    """),
    note="The paper's own row (Ours) is second in SSIM (TalkLip leads) and in DME (DINet leads).",
)
_STSA_ABLATION = PublishedTable(
    name="stsa-ablation",
    title="STSA, Table III: ablation study (LRS2)",
    metrics=("psnr", "ssim", "fid", "lse_c", "dme"),
    rows=_rows("""
        w/o CIL       | 31.22 0.9243 24.63 8.0476 0.1377
        w/o sync loss | 31.11 0.9237 25.32 7.6470 0.1376
        w/o spatial   | 30.66 0.9196 25.37 7.1514 0.1371
        w/o temporal  | 29.12 0.9036 30.83 8.0844 0.1405
        Ours (w/o FT) | 31.25 0.9253 24.87 8.1446 0.1362
        Ours (w/ FT)  | 31.73 0.9278 24.23 8.3094 0.1346
    """),
    note="FT: end-to-end fine-tuning. The FID of w/o CIL (24.63) is better than that of Ours (w/o FT) (24.87).",
)
_G4G_METRICS = ("psnr", "ssim", "lpips", "mse", "lse_d", "lse_c")
_G4G_HDTF = PublishedTable(
    name="g4g-hdtf",
    title="G4G, Table 1: HDTF",
    metrics=_G4G_METRICS,
    rows=_rows("""
        Wav2Lip        | 27.9359 0.8935 0.1455 0.0017 7.0138 8.3739
        VideoRetalking | 23.8450 0.8479 0.1262 0.0046 7.2773 7.5827
        DiNet          | 23.7150 0.8558 0.1017 0.0045 8.0256 7.0689
        IPLAP          | 27.9556 0.9088 0.0918 0.0018 8.2667 6.3498
        Ours           | 27.5560 0.9083 0.0904 0.0020 7.8920 7.3381
    """),
    note="The paper prints its own row (Ours) all in bold, but it is the best in LPIPS only: IPLAP leads in PSNR and "
    "SSIM, Wav2Lip in MSE, LSE-D and LSE-C.",
)
_G4G_LRS2 = PublishedTable(
    name="g4g-lrs2",
    title="G4G, Table 1: LRS2",
    metrics=_G4G_METRICS,
    rows=_rows("""
        Wav2Lip        | 28.4655 0.8928 0.1542 0.0014 7.0256 8.2106
        VideoRetalking | 25.8770 0.8430 0.1451 0.0026 7.0523 7.5366
        DiNet          | 26.8306 0.8765 0.0966 0.0022 8.1542 6.6632
        IPLAP          | 27.3878 0.8798 0.1106 0.0020 9.3604 4.8714
        Ours           | 27.0606 0.9101 0.0846 0.0020 8.5688 6.5064
    """),
    note="The paper prints its own row (Ours) all in bold, but it is the best in SSIM and LPIPS only: Wav2Lip leads in "
    "PSNR, MSE, LSE-D and LSE-C.",
)
_G4G_ABLATION = PublishedTable(
    name="g4g-ablation",
    title="G4G, Table 2: ablation study (HDTF)",
    metrics=_G4G_METRICS,
    rows=_rows("""
        w/o alignment   | 23.7250 0.8557 0.1027 0.0042 8.0251 7.0682
        w/o supervision | 27.6478 0.9160 0.0783 0.0019 7.7244 7.4636
        w/o fusion      | 25.7960 0.8746 0.1082 0.0030 7.9698 7.3311
        Ours            | 27.5560 0.9083 0.0904 0.0020 7.8920 7.3381
    """),
    note="The paper prints its own row (Ours) all in bold, but w/o supervision is the best in every column.",
)
_G4G_USER_STUDY = PublishedTable(
    name="g4g-user-study",
    title="G4G, Table 3: user study, mean opinion scores from 1 (poor) to 5 (excellent), 20 participants",
    metrics=tuple(OPINIONS),
    rows=_rows("""
        Wav2Lip        | 2.92 3.34 3.51
        VideoRetalking | 3.14 3.42 3.28
        DiNet          | 2.98 3.72 3.37
        IPFP           | 2.33 3.91 3.68
        Ours           | 3.41 4.26 4.34
    """),
    note="Opinions of people: evaluate.py cannot compute them. The row IPFP carries the citation of IPLAP.",
)

TABLES = {
    table.name: table
    for table in (_STSA_LRS2, _STSA_CMLR, _STSA_ABLATION, _G4G_HDTF, _G4G_LRS2, _G4G_ABLATION, _G4G_USER_STUDY)
}


Row = TypeVar("Row", bound=Hashable)


def best_and_second(values: dict[Row, float], higher_is_better: bool) -> tuple[set[Row], set[Row]]:
    """The rows with the best and with the second best value of a column; equal values share a rank.

    Args:
        values: row -> value. The caller leaves out rows without a value and the ground truth. The infinite PSNR of
            identical videos is the best.
    """
    ranks = [*sorted(set(values.values()), reverse=higher_is_better), None, None]
    best, second = ({row for row, value in values.items() if value == rank} for rank in ranks[:2])
    return best, second
