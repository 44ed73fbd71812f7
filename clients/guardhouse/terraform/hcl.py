"""The resources of HCL (https://developer.hashicorp.com/terraform/language/syntax/configuration).

The library parses; here its tree becomes values. What is no literal stays unknown: nothing is evaluated but templates.
"""

import re
from collections.abc import Iterator, Sequence
from textwrap import dedent
from typing import Final

import hcl2
from lark import Token, Tree
from lark.exceptions import LarkError, UnexpectedInput

from guardhouse.terraform.resources import MAX_HCL, Resource, Template, TerraformInvalid, Unknown, Value

MAX_BLANK: Final = 200
"""White space in one piece beside a heredoc, in characters: the library's time for one grows with its square."""

MAX_SHOWN: Final = 80
"""Characters of an expression that a message repeats."""

_ESCAPE: Final = re.compile(r"\\(?:([nrt\"\\])|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_SIMPLE: Final = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\"}
_HEREDOC: Final = re.compile(r"<<-?(?P<mark>[^\s]+)\r?\n(?P<body>.*?)[ \t]*(?P=mark)\s*\Z", re.DOTALL)
_HEREDOC_PART: Final = re.compile(
    r"(?P<escaped>\$\$\{|%%\{)|(?P<directive>%\{)|\$\{\s*(?:\"(?P<text>[^\"\\$%]*|\$)\"|(?P<name>[\w.\[\]-]+))\s*\}|\$\{"
)


def resources(text: str) -> Sequence[Resource]:
    """The resources, and the modules, which are not looked into. Raises TerraformInvalid and RecursionError."""
    if len(text) > MAX_HCL:
        raise TerraformInvalid(
            f"it has more than {MAX_HCL} characters: split it, lists first, or give what `terraform show -json` prints"
        )
    if "<<" in text and max(map(len, re.findall(r"\s+", text)), default=0) > MAX_BLANK:
        raise TerraformInvalid(f"more than {MAX_BLANK} blanks stand together: format it with terraform fmt")
    try:
        tree: Tree[Token] = hcl2.parses_to_tree(text)
    except UnexpectedInput as error:
        raise TerraformInvalid(_where(error, text)) from None
    except LarkError as error:
        raise TerraformInvalid(f"it is not HCL: {error}") from None
    return list(_Reader(text).resources(tree))


def _where(error: UnexpectedInput, text: str) -> str:
    position = error.pos_in_stream
    if position is None or position >= len(text) or getattr(getattr(error, "token", None), "type", "") == "$END":
        return "it is not HCL: it ends where something is still open"
    before = text[:position]
    line, column = before.count("\n") + 1, position - before.rfind("\n")
    return f"it is not HCL: line {line}, column {column}: {text[position : position + 20]!r} does not belong there"


class _Reader:
    """Walks the library's tree."""

    def __init__(self, text: str) -> None:
        self._text = text

    def resources(self, tree: Tree[Token]) -> Iterator[Resource]:
        for block in _trees(_only(tree)):
            if block.data != "block":
                continue
            kind, *labels = self._words(block)
            if kind == "resource" and len(labels) == 2:
                kind, label = labels
                yield Resource(f"{kind}.{label}", kind, label, self._body(_trees(block)[-1]))
            elif kind == "module" and labels:
                yield Resource(f"module.{labels[0]}", "module", labels[0], {})

    def _words(self, block: Tree[Token]) -> list[str]:
        """A block's type and labels."""
        words = [self._value(it) for it in _trees(block) if it.data not in ("body", "new_line_or_comment")]
        return [word if isinstance(word, str) else word.text if isinstance(word, Unknown) else "" for word in words]

    def _body(self, body: Tree[Token]) -> dict[str, Value]:
        """Attributes by name, and nested blocks: one is as good as an object, several are a list of them."""
        found: dict[str, Value] = {}
        for item in _trees(body):
            if item.data == "attribute":
                name, value = _trees(item)
                key = self._source(name)
                if key in found:
                    raise self._wrong(item, f"{key} is set twice")
                found[key] = self._value(value)
            elif item.data == "block":
                key, inner = self._words(item)[0], self._body(_trees(item)[-1])
                if key not in found:
                    found[key] = inner
                else:
                    before = found[key]
                    found[key] = [*(before if isinstance(before, list) else [before]), inner]
        return found

    def _value(self, node: Tree[Token]) -> Value:
        children = [it for it in _trees(node) if it.data != "new_line_or_comment"]
        match node.data:
            case "expr_term" if len(children) == 1:
                return self._value(children[0])
            case "string":
                return self._template(children)
            case "int_lit" | "float_lit" | "unary_op":
                return self._number(node)
            case "literal_value":
                return {"true": True, "false": False}.get(self._source(node))
            case "tuple":
                return [self._value(child) for child in children]
            case "object":
                return self._object(node, children)
            case "heredoc_template" | "heredoc_template_trim":
                return self._heredoc(node)
        return self._unknown(node)

    def _number(self, node: Tree[Token]) -> Value:
        source = self._source(node).replace(" ", "")
        try:
            return int(source) if re.fullmatch(r"-?[0-9]{1,30}", source) else float(source)
        except ValueError:
            return self._unknown(node)

    def _object(self, node: Tree[Token], elements: Sequence[Tree[Token]]) -> Value:
        found: dict[str, Value] = {}
        for element in elements:
            if element.data != "object_elem":
                return self._unknown(node)
            name, value = (it for it in _trees(element) if it.data != "new_line_or_comment")
            key = self._value(_trees(name)[0])
            if isinstance(key, Unknown) and re.fullmatch(r"[\w-]+", key.text):
                key = key.text
            if not isinstance(key, str):
                return self._unknown(node)
            found[key] = self._value(value)
        return found

    def _template(self, pieces: Sequence[Tree[Token]]) -> Value:
        parts: list[str | Unknown] = []
        for piece in pieces:
            (child,) = piece.children
            if isinstance(child, Token):
                parts.append(self._literal(piece, child))
            elif child.data == "interpolation":
                parts += _as_parts(self._value(_trees(child)[0]), self._unknown(child))
            else:
                parts.append(self._unknown(child))
        return _joined(parts)

    def _literal(self, piece: Tree[Token], token: Token) -> str:
        if token.type in ("ESCAPED_INTERPOLATION", "ESCAPED_DIRECTIVE"):
            if '"' in token or "\n" in token:  # The library reads on to the next brace, beyond the end of the text.
                raise self._wrong(piece, f"write ${{{_quote(token[0])}}}{{ for a {token[0]}{{ that nothing closes")
            return self._unescaped(piece, token[1:])
        return self._unescaped(piece, token)

    def _unescaped(self, piece: Tree[Token], text: str) -> str:
        def character(found: re.Match[str]) -> str:
            simple, short, long, other = found.groups()
            code = int(short or long or "0", 16)
            if other or code > 0x10FFFF or 0xD800 <= code < 0xE000:
                raise self._wrong(piece, f"{found[0]} is no escape: write \\\\ for a backslash")
            return _SIMPLE[simple] if simple else chr(code)

        return _ESCAPE.sub(character, text)

    def _heredoc(self, node: Tree[Token]) -> Value:
        """Its text; of what stands in braces only names and plain texts are known."""
        source = self._source(node)
        whole = _HEREDOC.match(source)
        if whole is None:
            return self._unknown(node)
        body = dedent(whole["body"]) if source.startswith("<<-") else whole["body"]
        parts: list[str | Unknown] = []
        end = 0
        for found in _HEREDOC_PART.finditer(body):
            parts.append(body[end : found.start()])
            end = found.end()
            if found["escaped"]:
                parts.append(found["escaped"][1:])
            elif found["text"] is not None:
                parts.append(found["text"])
            elif found["name"]:
                parts.append(Unknown(found["name"]))
            else:
                return self._unknown(node)
        return _joined([*parts, body[end:]])

    def _unknown(self, node: Tree[Token]) -> Unknown:
        source = " ".join(self._source(node).split())
        return Unknown(source if len(source) <= MAX_SHOWN else f"{source[:MAX_SHOWN]}...")

    def _source(self, node: Tree[Token]) -> str:
        return self._text[node.meta.start_pos : node.meta.end_pos].strip()

    def _wrong(self, node: Tree[Token], message: str) -> TerraformInvalid:
        return TerraformInvalid(f"line {node.meta.line}: {message}")


def _as_parts(value: Value, otherwise: Unknown) -> Sequence[str | Unknown]:
    """A value as Terraform puts it into a text."""
    match value:
        case bool():
            return ["true" if value else "false"]
        case str() | int():
            return [str(value)]
        case Unknown():
            return [value]
        case Template(parts):
            return parts
    return [otherwise]


def _joined(parts: Sequence[str | Unknown]) -> Value:
    if any(isinstance(part, Unknown) for part in parts):
        return Template(tuple(part for part in parts if part != ""))
    return "".join(str(part) for part in parts)


def _quote(sign: str) -> str:
    return f'"{sign}"'


def _trees(node: Tree[Token]) -> list[Tree[Token]]:
    return [child for child in node.children if isinstance(child, Tree)]


def _only(tree: Tree[Token]) -> Tree[Token]:
    (body,) = _trees(tree)
    return body
