"""What an answer rests on: documents and citations as one ordered list without duplicates."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from langchain_core.documents import Document

from langgraph_ws.codec import plain
from langgraph_ws.frames import Source, Sources

__all__ = ["SourceList", "documents_in"]

_TITLES = ("title", "name", "file_name", "filename")
_TEXTS = ("page_content", "text", "snippet", "content")
_LINKS = ("url", "source", "link", "uri")


def documents_in(value: Any) -> Iterator[Document]:
    """The documents that a value is, or holds one level deep."""
    if isinstance(value, Document):
        yield value
        return
    for item in _items(value):
        if isinstance(item, Document):
            yield item
        else:
            yield from (inner for inner in _items(item) if isinstance(inner, Document))


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list | tuple | set | frozenset) else ()


class SourceList:
    """The sources of one run, in the order they were found.

    Two are the same when their document ids are, else their addresses (and pages), else their
    texts.

    Args:
        snippet_chars: How many characters of a text are kept.
    """

    def __init__(self, snippet_chars: int) -> None:
        self._snippet_chars = snippet_chars
        self._sources: list[Source] = []
        self._keys: set[tuple[Any, ...]] = set()
        self._ids: set[str] = set()

    @property
    def all(self) -> tuple[Source, ...]:
        """The sources so far."""
        return tuple(self._sources)

    def add(self, values: Iterable[Any]) -> Sources | None:
        """Add documents, or what a developer names as such.

        Args:
            values: Documents, `Source`s, texts, addresses, or mappings with any of `id`, `title`,
                `url`, `text` (`page_content`, `snippet`), `metadata`.

        Returns:
            The frame that tells of them; None when all of them were known.
        """
        return self._frame(sum(self._add(value) for value in values))

    def cite(self, citations: Iterable[Mapping[str, Any]]) -> Sources | None:
        """Add what LangChain's citation annotations name; they are told apart by their address."""
        return self._frame(sum(self._cite(citation) for citation in citations))

    def _frame(self, added: int) -> Sources | None:
        return Sources(sources=self.all, added=added) if added else None

    def _add(self, value: Any) -> bool:
        if isinstance(value, Source):
            return self._keep(
                ("id", value.id),
                value.id,
                value.title,
                value.url,
                value.snippet or "",
                value.metadata or {},
            )
        if isinstance(value, str):
            value = {"url": value} if _is_url(value) else {"text": value}
        if isinstance(value, Mapping):
            value = _document(value)
        if not isinstance(value, Document):
            raise TypeError(f"sources: expected documents, got {type(value).__name__}")
        metadata = value.metadata or {}
        place = _first(metadata, _LINKS)
        if value.id:
            key: tuple[Any, ...] = ("id", value.id)
        elif place is not None:
            key = ("url", place, str(metadata.get("page")))
        else:
            key = ("text", hashlib.sha256(value.page_content.encode("utf-8", "replace")).digest())
        url = next((str(metadata[name]) for name in _LINKS if _is_url(metadata.get(name))), None)
        title = _first(metadata, _TITLES)
        return self._keep(key, value.id, title, url, value.page_content, metadata)

    def _cite(self, citation: Mapping[str, Any]) -> bool:
        url, title = citation.get("url"), citation.get("title")
        text = citation.get("cited_text") or ""
        if url and any(source.url == url for source in self._sources):
            return False
        if not (url or title or text):
            return False
        key = ("url", url, "None") if url else ("citation", title, text)
        return self._keep(key, None, title, url, text, {})

    def _keep(
        self,
        key: tuple[Any, ...],
        source_id: str | None,
        title: Any,
        url: Any,
        text: str,
        metadata: Mapping[str, Any],
    ) -> bool:
        if key in self._keys:
            return False
        self._keys.add(key)
        snippet = text[: self._snippet_chars]
        self._sources.append(
            Source(
                id=self._name(source_id),
                title=None if title is None else plain(str(title)),
                url=None if url is None else plain(str(url)),
                snippet=plain(snippet) or None,
                metadata=plain(dict(metadata)) or None,
            )
        )
        return True

    def _name(self, wanted: str | None) -> str:
        """An id that no other source of the run has."""
        number = len(self._sources) + 1
        name = plain(str(wanted)) if wanted else f"s{number}"
        while name in self._ids:
            number += 1
            name = f"s{number}"
        self._ids.add(name)
        return str(name)


def _document(value: Mapping[str, Any]) -> Document:
    """A document from a mapping that a developer put into the state."""
    metadata = dict(value.get("metadata") or {})
    metadata |= {name: value[name] for name in (*_TITLES, *_LINKS, "page") if value.get(name)}
    text = _first(value, _TEXTS) or ""
    return Document(page_content=text, metadata=metadata, id=value.get("id"))


def _first(metadata: Mapping[str, Any], names: Iterable[str]) -> str | None:
    return next((str(metadata[name]) for name in names if metadata.get(name)), None)


def _is_url(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(("http://", "https://"))
