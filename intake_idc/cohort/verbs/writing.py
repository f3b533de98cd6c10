"""The series written down, to be handed on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from intake_idc import display
from intake_idc.cohort import writing
from intake_idc.cohort.verbs.asking import Asking
from intake_idc.release import MANIFEST_COLUMNS, FixedRows

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from pathlib import Path

    from intake_idc.formats.writing import Form, Rows
    from intake_idc.storage import Mirror

__all__ = ["Writing"]


class Writing(Asking):
    """The verbs that write files."""

    def to_manifest(
        self,
        path: str | os.PathLike[str],
        kind: str | None = None,
        *,
        mirror: Literal["aws", "gcs"] = "aws",
        level: Literal["series", "instance"] = "series",
        columns: Sequence[str] | None = None,
        scheme: Literal["s3", "gs", "https"] | None = None,
        preamble: bool | None = None,
        spreadsheet_safe: bool = False,
    ) -> Path:
        """Write the series, or their instances, as a manifest that names the release.

        `to_table` is for looking at the series, every column of the index with its
        type; this is for handing them on, to another tool or to `open_manifest`.

        Parameters
        ----------
        path : str or path
            The kind follows from the name: ``.s5cmd``, ``.txt`` (URLs), ``.csv``,
            ``.tsv``, ``.ndjson`` or ``.jsonl``, ``.json``, ``.parquet``, ``.sh`` (a
            script), ``.yml`` (a catalog, see `to_catalog`). Texts that other tools do
            not run may end in ``.gz``.
        kind : str, optional
            "s5cmd", "urls", "csv", "tsv", "ndjson", "json", "parquet", "drs",
            "api-v2", "aws", "gcloud" or "yaml", whatever the name ends in.
        mirror : "aws" or "gcs"
            Whose buckets are named.
        level : "series" or "instance"
            What a line or row is. Instances are listed in the mirror that the cohort is
            read from, unless the cohort knows them.
        columns : sequence of str, optional
            Columns of a table besides the usual ones; see
            `intake_idc.formats.writing.rows`.
        scheme : "s3", "gs" or "https", optional
            Scheme of plain URLs; by default that of the mirror.
        preamble : bool, optional
            Whether lines above the first say the release and the number of rows. By
            default s5cmd manifests and URLs have them, CSV and TSV do not.
        spreadsheet_safe : bool
            Put ``'`` before cells of CSV and TSV that a spreadsheet would run.

        Raises
        ------
        EmptySelection
            Nothing is selected, or everything without `all`.
        RequestError
            The kind is not known, options do not fit it, or the level is that of series
            and only some instances of one are meant.
        UnknownColumn
            A column is not there.
        StorageError
            The mirror cannot be listed, or the file cannot be written; what was there
            before is as it was.
        """
        from intake_idc.formats.writing import form_of

        target = writing.local_path(path)
        form = form_of(
            target.name,
            kind,
            mirror=mirror,
            level=level,
            columns=tuple(columns or ()),
            scheme=scheme,
            preamble=preamble,
            spreadsheet_safe=spreadsheet_safe,
        )
        if form.kind == "yaml":
            return self.to_catalog(target)
        writing.write_manifest(target, self._written(form), form)
        return target

    def _written(self, form: Form) -> Rows:
        """Give the rows that a manifest is written of."""
        from intake_idc.cohort import locking
        from intake_idc.formats.writing import COMPUTED, Rows

        wanted = [column for column in form.columns if column not in COMPUTED]
        manifest = self._located([*MANIFEST_COLUMNS, *wanted])
        objects = None
        if form.level == "instance":
            objects = writing.listed_objects(
                manifest, self._mirror(None), self.objects, sized=form.sized
            )
        return Rows(
            manifest,
            objects,
            writing.dated(self.rows),
            locking.where(self),
            writing.older(self.rows),
        )

    def lock(
        self,
        path: str | os.PathLike[str],
        *,
        dir_template: str | None = None,
        mirror: str | os.PathLike[str] | Mirror | None = None,
    ) -> Path:
        """Write a lock, by which the same bytes are found again without any index.

        It holds the question, the release and its tables, every series, counts,
        licences, DOIs, and a digest over all. More than 1,000 series go into a Parquet
        file beside it. The same cohort gives the same bytes. Open it with `open_lock`.

        Parameters
        ----------
        path : str or path
            Such as ``"cohort.lock.json"``. A lock that is there is replaced, and
            holds until the new one is whole.
        dir_template : str, optional
            Folders that `restore` makes; see `intake_idc.plan.DIR_TEMPLATE`.
        mirror : str, path or Mirror, optional
            Where `restore` reads; by default where the cohort was told to read.

        Raises
        ------
        EmptySelection
            Nothing is selected, or everything without `all`.
        PlanError
            The template leads outside the target, or names no column.
        RequestError
            Something cannot be written, such as a column of floating-point numbers
            that the template names, or a file beside a lock with ":" in its name.
        StorageError
            The folder cannot be written to, or the disk is full; the old lock holds.
        """
        target = writing.local_path(path)
        self._lock(target, dir_template, mirror)
        return target

    def _lock(
        self,
        target: Path,
        dir_template: str | None = None,
        mirror: str | os.PathLike[str] | Mirror | None = None,
    ) -> str:
        from intake_idc import plan as planning
        from intake_idc.cohort import locking
        from intake_idc.storage import resolve_mirror

        place = self.mirror
        if mirror is not None:
            place = resolve_mirror(mirror, environment=False)
        if dir_template is None and self.locked is not None:
            dir_template = self.locked.dir_template
        named = planning.template_columns(dir_template or "", self.rows.columns)
        return locking.write_lock(
            self,
            self._reading_manifest([*MANIFEST_COLUMNS, *named]),
            target,
            dir_template=dir_template,
            mirror=place,
        )

    def to_table(self, path: str | os.PathLike[str]) -> Path:
        """Write every column of every series, as ``.csv`` or ``.parquet``.

        Raises
        ------
        RequestError
            The name ends in neither.
        """
        target = writing.local_path(path)
        writing.write_table(target, self.table)
        return target

    def to_catalog(self, path: str | os.PathLike[str], name: str = "cohort") -> Path:
        """Write the cohort as an Intake catalog of one entry, pinned to its release.

        A cohort that is the rows of a manifest or a lock gets that written beside the
        catalog. ``intake.open_catalog(path)[name]`` opens it again.

        Raises
        ------
        RequestError
            A value holds template signs, which Intake would evaluate.
        """
        target = writing.local_path(path)
        arguments: dict[str, Any]
        if self.locked is not None:
            digest = self._reading_manifest().digest[:12]
            beside = target.with_name(f"{target.stem}-{digest}.lock.json")
            arguments = {
                "urlpath": f"{{{{ CATALOG_DIR }}}}/{beside.name}",
                "digest": self._lock(beside),
                "idc_version": self.idc_version,
            }
            # Not the conditions: they are in the lock, whatever signs they hold.
            series = display.count_text(len(self), "series")
            description = f"{series} of IDC release {self.idc_version}, locked"
            writing.write_catalog(target, name, "idc_lock", arguments, description)
            return target
        if isinstance(self.rows, FixedRows):
            # A name of its own: "cohort.s5cmd" may be the user's.
            digest = self._reading_manifest().digest[:12]
            beside = self.to_manifest(
                target.with_name(f"{target.stem}-{digest}.s5cmd"),
                level="instance" if self._reading_manifest().has_subsets else "series",
            )
            driver = "idc_manifest"
            arguments = {"urlpath": f"{{{{ CATALOG_DIR }}}}/{beside.name}"}
        else:
            driver = "idc_cohort"
            arguments = self.selection.to_arguments()
            if self.everything:
                arguments["everything"] = True
            writing.refuse_templates(arguments)
        arguments["idc_version"] = self.idc_version
        if self.rows.spec is not None:
            arguments["tables"] = self.rows.spec
        if self.rows.digest is not None:
            arguments["digest"] = self.rows.digest
        # The embedded sample is its own mirror, which need not be said.
        if self.mirror is not None and self.mirror.name != self.rows.spec:
            arguments |= self.mirror.to_arguments()
        description = f"{self._where}, IDC release {self.idc_version}"
        writing.refuse_templates(description)
        writing.write_catalog(target, name, driver, arguments, description)
        return target
