"""Lists every setting of the training scripts, for `--help` and docs/settings.md.

    python -m training.settings docs/settings.md

The settings are read from the dataclasses' source, which is not imported: importing PyTorch alone takes seconds. A
field's meaning is the comment on its line and on the lines below it, or else the comment lines above it.
"""

import ast
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from media.errors import Parser, command
from media.files import replacing

ROOT = Path(__file__).resolve().parent.parent
SCHEMAS = {
    "train_sync.py": ["SyncTraining"],
    "train_heatmap.py": ["HeatmapTraining"],
    "train_face.py": ["FaceTraining", "G4GTraining"],
    "finetune_e2e.py": ["Finetuning"],
}
REQUIRED = "required"


@dataclass(frozen=True)
class Setting:
    """One setting of a config.

    name: its key, with dots.
    kind: its type, as written in the dataclass.
    default: its default as written in a config, or `REQUIRED`.
    meaning: the text of its comment.
    """

    name: str
    kind: str
    default: str
    meaning: str


class _Module:
    """A module's classes, imports and lines."""

    def __init__(self, path: Path):
        text = path.read_text(encoding="utf-8")
        self.lines = text.splitlines()
        tree = ast.parse(text)
        self.docstring = ast.get_docstring(tree) or ""
        self.classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
        self.imports = {
            alias.asname or alias.name: node.module
            for node in tree.body
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        }

    def comment(self, field: ast.AnnAssign) -> str:
        """The comment on a field's last line and below it; if there is none, the comment lines above the field."""
        end = field.end_lineno or field.lineno
        own, below = self._trailing(field), self._block(end)
        if not own:
            return " ".join(self._block(field.lineno - 2, step=-1))
        after = end + len(below)  # the next field; the lines are its comment if it has no other
        continues = after < len(self.lines) and "  # " in self.lines[after]
        return " ".join([own, *below] if continues else [own])

    def _trailing(self, field: ast.AnnAssign) -> str:
        line = self.lines[(field.end_lineno or field.lineno) - 1][field.end_col_offset :]
        return line.split("#", 1)[1].strip() if "#" in line else ""

    def _block(self, line: int, step: int = 1) -> list[str]:
        """The comment lines from line `line` (from 0) on, downwards or upwards, in the file's order."""
        block = []
        while 0 <= line < len(self.lines) and self.lines[line].lstrip().startswith("#"):
            block.append(self.lines[line].lstrip().lstrip("#").strip())
            line += step
        return block[::step]


def answer_help(name: str, script: str) -> None:
    """Print a training script's help and exit with 0, if it is run with --help; called before its slow imports.

    Args:
        name, script: the script's `__name__` and `__file__`.
    """
    if name != "__main__" or not {"-h", "--help"} & set(sys.argv[1:]):
        return
    path = Path(script).resolve()
    source = _source(path)
    print(f"usage: {path.name} --config FILE [key=value ...]\n\n{source.docstring}\n")
    print("  --config FILE  YAML file with the run's settings; it may name another one under `base`")
    print("  key=value      settings that replace the file's, as in train.steps=20")
    for title, found in _without_repeats(path):
        print(f"\nSettings of {title} (key: type = default):\n")
        for setting in found:
            print(f"  {setting.name}: {setting.kind} = {setting.default}")
            print(textwrap.fill(setting.meaning, 100, initial_indent="      ", subsequent_indent="      "))
    sys.exit(0)


def settings(script: Path, schema: str) -> list[Setting]:
    """All settings of the dataclass `schema` of the file `script`, sections flattened to dotted keys."""
    return list(_settings(script, schema, {}, ""))


def extensions(script: Path, schema: str) -> dict[str, str]:
    """The class in extensions/settings.py that adds settings to a schema: by its network's form, or "" for any form."""
    for item in _source(script).classes[schema].body:
        if isinstance(item, ast.AnnAssign) and ast.unparse(item.target) == "extensions" and item.value is not None:
            return ast.literal_eval(item.value)
    return {}


def _tables(script: Path) -> Iterator[tuple[str, list[Setting]]]:
    """The settings of each schema of `script`, each followed by those that extensions/ adds, where it is there."""
    further = ROOT / "extensions" / "settings.py"
    for schema in SCHEMAS[script.name]:
        found = settings(script, schema)
        yield schema, found
        for form, kind in extensions(script, schema).items() if further.is_file() else ():
            added = [each for each in settings(further, kind) if each not in found]
            found = [*found, *added]
            yield f"{schema}, {f'model.form={form}' if form else 'extensions'}", added


def _without_repeats(script: Path) -> Iterator[tuple[str, list[Setting]]]:
    """`_tables`; the settings that all schemas of `script` share come first, in a table of their own."""
    papers = [settings(script, schema) for schema in SCHEMAS[script.name]]
    common = [each for each in papers[0] if all(each in found for found in papers)] if len(papers) > 1 else []
    if common:
        yield " and ".join(SCHEMAS[script.name]), common
    for title, found in _tables(script):
        yield title, [each for each in found if each not in common]


def _settings(path: Path, schema: str, given: dict[str, str], prefix: str) -> Iterator[Setting]:
    """The fields of a dataclass, those of its bases first; `given` holds defaults that replace the class's own."""
    for name, (owner, field) in _fields(path, schema).items():
        source = _source(owner)
        section = _section(field.value, source, owner)
        if section is not None:
            where, kind, arguments = section
            yield from _settings(where, kind, arguments, f"{prefix}{name}.")
        else:
            default = given.get(name, _default(field.value))
            yield Setting(prefix + name, ast.unparse(field.annotation), default, source.comment(field))


def _fields(path: Path, schema: str) -> dict[str, tuple[Path, ast.AnnAssign]]:
    """The fields of a class by name, each with the file that declares it; a redeclared one keeps its place."""
    source = _source(path)
    if schema not in source.classes:
        return _fields(_file(source.imports[schema]), schema)
    node = source.classes[schema]
    fields: dict[str, tuple[Path, ast.AnnAssign]] = {}
    for base in node.bases:
        if isinstance(base, ast.Name):
            fields |= _fields(path, base.id)
    for item in node.body:
        if not isinstance(item, ast.AnnAssign) or ast.unparse(item.annotation).startswith("ClassVar"):
            continue
        if isinstance(item.target, ast.Name):
            fields[item.target.id] = path, item
    return fields


def _section(value: ast.expr | None, source: _Module, path: Path) -> tuple[Path, str, dict[str, str]] | None:
    """The file, the class and the replaced defaults of a field that is a section; None for a plain field."""
    factory = _factory(value)
    if isinstance(factory, ast.Lambda):
        factory = factory.body
    call = factory if isinstance(factory, ast.Call) else None
    name = call.func if call else factory
    if not isinstance(name, ast.Name) or not (name.id in source.classes or name.id in source.imports):
        return None
    arguments = {word.arg: _written(word.value) for word in call.keywords if word.arg} if call else {}
    where = path if name.id in source.classes else _file(source.imports[name.id])
    return where, name.id, arguments


def _factory(value: ast.expr | None) -> ast.expr | None:
    """The `default_factory` of `field(...)`."""
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "field":
        return next((word.value for word in value.keywords if word.arg == "default_factory"), None)
    return None


def _default(value: ast.expr | None) -> str:
    factory = _factory(value)
    if isinstance(factory, ast.Lambda):
        value = factory.body
    if value is None or (isinstance(value, ast.Name) and value.id == "MISSING"):
        return REQUIRED
    return _written(value)


def _written(value: ast.expr) -> str:
    """A default as YAML writes it."""
    try:
        constant = ast.literal_eval(value)
    except ValueError:
        return ast.unparse(value)
    if isinstance(constant, str):
        return constant or '""'
    if isinstance(constant, tuple):
        return str(list(constant))
    if constant is None or isinstance(constant, bool):
        return {True: "true", False: "false", None: "null"}[constant]
    return ast.unparse(value)


def _file(module: str) -> Path:
    return ROOT / f"{module.replace('.', '/')}.py"


_read: dict[Path, _Module] = {}


def _source(path: Path) -> _Module:
    if path not in _read:
        _read[path] = _Module(path)
    return _read[path]


SHARED = ("data", "train")  # sections of which all scripts share most settings


def document() -> str:
    """The text of docs/settings.md: one table of the settings that all scripts share, then each script's tables."""
    every = {f"`{script}`, {title}": found for script in SCHEMAS for title, found in _tables(ROOT / script)}
    papers = (settings(ROOT / script, schema) for script, schemas in SCHEMAS.items() for schema in schemas)
    common = set.intersection(*map(set, papers))
    common = {each for each in common if each.name.split(".")[0] in SHARED}
    first = next(iter(every.values()))
    lines = [
        "# Settings",
        "",
        "Every setting of the training configs. A setting goes into the config's YAML file or, as `key=value`, onto",
        "the command line. `python -m training.settings docs/settings.md` writes this page from the dataclasses;",
        "`--help` of a script prints its part. The tables titled *extensions* list settings that are in no paper",
        "([extensions/README.md](../extensions/README.md)).",
    ]
    lines += _table("All scripts", [each for each in first if each in common])
    for title, found in every.items():
        lines += _table(title, [each for each in found if each not in common])
    return "\n".join(lines) + "\n"


def _table(title: str, rows: list[Setting]) -> list[str]:
    lines = ["", f"## {title}", "", "| setting | type | default | meaning |", "| --- | --- | --- | --- |"]
    for each in rows:
        cells = (f"`{each.name}`", f"`{each.kind}`", f"`{each.default}`", each.meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


@command
def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("page", nargs="?", type=Path, metavar="PAGE.md", help="file to write; default: print the page")
    page = parser.parse_args().page
    if page is None:
        print(document(), end="")
        return
    with replacing(page) as temporary:
        temporary.write_text(document(), encoding="utf-8")
    print(f"wrote {page}")


if __name__ == "__main__":
    sys.exit(main())
