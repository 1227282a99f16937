"""PTX text to `ModuleText`: declarations, kernels, instructions. Nothing is executed here."""

from .errors import PtxSyntaxError, UnsupportedError
from .kinds import KINDS, Kind
from .syntax import (
    Address,
    Guard,
    Immediate,
    Instruction,
    KernelText,
    Label,
    ModuleText,
    Name,
    Negated,
    Operand,
    Pair,
    Register,
    Scope,
    Sum,
    Variable,
    Vector,
)
from .tokens import Token, number_of, tokens_of

_SPACES = {".global": "global", ".const": "const", ".shared": "shared", ".local": "local"}
_LINKING = (".visible", ".extern", ".weak", ".common")
_COUNTS = (".maxntid", ".reqntid", ".minnctapersm", ".maxnreg", ".maxnctapersm")


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = tokens_of(text)
        self.place = 0
        self.scopes = 1
        self.module = ModuleText("", "", Scope(0), [], [])

    # -- tokens

    @property
    def token(self) -> Token:
        return self.tokens[self.place]

    def next(self) -> Token:
        token = self.tokens[self.place]
        self.place += 1
        return token

    def accept(self, text: str) -> bool:
        if self.token.text != text or self.token.sort == "end":
            return False
        self.place += 1
        return True

    def expect(self, text: str) -> Token:
        if self.token.text != text:
            raise PtxSyntaxError(f"{self.token.text!r} where {text!r} belongs", self.token.line)
        return self.next()

    def word(self) -> str:
        if self.token.sort != "word":
            raise PtxSyntaxError(f"{self.token.text!r} where a name belongs", self.token.line)
        return self.next().text

    def integer(self) -> int:
        sign = -1 if self.accept("-") else 1
        if self.token.sort != "number":
            raise PtxSyntaxError(f"{self.token.text!r} where a number belongs", self.token.line)
        return sign * number_of(self.next().text).value

    def skip_statement(self) -> None:
        while self.token.sort != "end" and not self.accept(";"):
            self.place += 1

    def skip_line(self) -> None:
        line = self.token.line
        while self.token.sort != "end" and self.token.line == line:
            self.place += 1

    # -- the module

    def parse(self) -> ModuleText:
        while self.token.sort != "end":
            self.top_level()
        return self.module

    def top_level(self) -> None:
        token = self.token
        if token.text == ".version":
            self.next()
            self.module.version = self.next().text
        elif token.text == ".target":
            self.next()
            self.module.target = self.word()
            while self.accept(","):
                self.word()
        elif token.text in (".address_size", ".file", ".loc"):
            self.skip_line()
        elif token.text == ".section":
            self.section()
        elif token.text == ".pragma":
            self.skip_statement()
        else:
            self.definition()

    def section(self) -> None:
        while not self.accept("{"):
            self.next()
        while not self.accept("}"):
            self.next()

    def definition(self) -> None:
        while self.token.text in _LINKING:
            self.next()
        token = self.token
        if token.text == ".entry":
            self.next()
            self.module.kernels.append(self.kernel())
        elif token.text in _SPACES:
            for variable in self.variable():
                self.module.variables.append(variable)
                self.module.scope.names[variable.name] = variable
        elif token.text == ".func":
            raise UnsupportedError(
                "a .func; only .entry is known, so inline what is called", token.line
            )
        else:
            raise PtxSyntaxError(f"{token.text!r} where a declaration belongs", token.line)

    # -- declarations

    def kind(self) -> Kind:
        token = self.token
        kind = KINDS.get(self.word().removeprefix("."))
        if kind is None:
            raise PtxSyntaxError(f"{token.text} is no type", token.line)
        return kind

    def variable(self) -> list[Variable]:
        """`.shared .align 16 .b8 name[1024] = {...}, other;`"""
        line = self.token.line
        space = _SPACES[self.next().text]
        align, width = 0, 1
        while self.token.text in (".align", ".v2", ".v4") or self.token.text.startswith(".attr"):
            word = self.next().text
            if word == ".align":
                align = self.integer()
            elif word in (".v2", ".v4"):
                width = int(word[2:])
            else:
                while not self.accept(")"):
                    self.next()
        kind = self.kind()
        found = [self.declarator(space, align or kind.bytes * width, kind, width, line)]
        while self.accept(","):
            found.append(self.declarator(space, align or kind.bytes * width, kind, width, line))
        self.expect(";")
        return found

    def declarator(self, space: str, align: int, kind: Kind, width: int, line: int) -> Variable:
        name = self.word()
        count, empty = 1, False
        while self.accept("["):
            if self.accept("]"):
                empty = True
            else:
                count *= self.integer()
                self.expect("]")
        initial = self.initial(kind) if self.accept("=") else None
        if empty and initial:
            count, empty = len(initial) // kind.bytes, False
        size = 0 if empty else count * width * kind.bytes
        if initial is not None:
            initial = initial.ljust(size, b"\0")
        return Variable(name, space, align, size, initial, line)

    def initial(self, kind: Kind) -> bytes:
        if not self.accept("{"):
            return self.constant(kind)
        data = b""
        while not self.accept("}"):
            data += self.initial(kind)
            self.accept(",")
        return data

    def constant(self, kind: Kind) -> bytes:
        negative = self.accept("-")
        if self.token.sort != "number":
            raise UnsupportedError("a variable whose content is an address", self.token.line)
        value = number_of(self.next().text).value
        value = -value if negative else value
        return (value % (1 << kind.bits)).to_bytes(kind.bytes, "little")

    def parameters(self) -> list[Variable]:
        """`(.param .u64 .ptr .global .align 16 name, .param .b8 name[32])`."""
        found: list[Variable] = []
        if not self.accept("("):
            return found
        while not self.accept(")"):
            line = self.expect(".param").line
            align, name, kind = 0, "", None
            while not name:
                word = self.word()
                if word == ".align":
                    align = self.integer()
                elif kind is None and word.removeprefix(".") in KINDS:
                    kind = KINDS[word.removeprefix(".")]
                elif not word.startswith("."):
                    name = word
            if kind is None:
                raise PtxSyntaxError(f"parameter {name} has no type", line)
            size = kind.bytes
            if self.accept("["):
                size *= self.integer()
                self.expect("]")
                found.append(Variable(name, "param", align or kind.bytes, size, None, line))
            else:
                found.append(Variable(name, "param", kind.bytes, size, None, line))
            self.accept(",")
        return found

    # -- a kernel

    def kernel(self) -> KernelText:
        line = self.token.line
        name = self.word()
        if any(kernel.name == name for kernel in self.module.kernels):
            raise PtxSyntaxError(f"a second kernel {name}", line)
        parameters = self.parameters()
        directives: dict[str, tuple[int, ...]] = {}
        while not self.accept("{"):
            word = self.word()
            if word in _COUNTS:
                numbers = [self.integer()]
                while self.accept(","):
                    numbers.append(self.integer())
                directives[word.removeprefix(".")] = tuple(numbers)
            elif word == ".pragma":
                self.skip_statement()
            elif word not in (".noreturn", ".blocksareclusters", ".explicitcluster"):
                raise UnsupportedError(f"the directive {word}", self.token.line)
        scope = self.scope(self.module.scope)
        scope.names.update({parameter.name: parameter for parameter in parameters})
        kernel = KernelText(name, line, parameters, scope, [], [], directives)
        self.body(kernel, scope)
        return kernel

    def scope(self, parent: Scope) -> Scope:
        self.scopes += 1
        return Scope(self.scopes, parent)

    def body(self, kernel: KernelText, scope: Scope) -> None:
        while not self.accept("}"):
            token = self.token
            if token.sort == "end":
                raise PtxSyntaxError("the text ends inside a kernel", token.line)
            if self.accept("{"):
                self.body(kernel, self.scope(scope))
            elif token.text == ".reg":
                self.registers(scope)
            elif token.text in _SPACES or token.text == ".extern":
                self.accept(".extern")
                for variable in self.variable():
                    scope.names[variable.name] = variable
                    kernel.variables.append(variable)
            elif token.text == ".loc":
                self.skip_line()
            elif token.text == ".pragma":
                self.skip_statement()
            elif self.tokens[self.place + 1].text == ":":
                self.label(kernel, scope)
            elif token.text.startswith("."):
                raise UnsupportedError(f"the directive {token.text}", token.line)
            else:
                kernel.body.append(self.instruction(scope))

    def label(self, kernel: KernelText, scope: Scope) -> None:
        line = self.token.line
        label = Label(self.word(), scope.number)
        if label.name in scope.names:
            raise PtxSyntaxError(f"a second {label.name}", line)
        self.expect(":")
        scope.names[label.name] = label
        kernel.body.append(label)
        if self.token.text == ".branchtargets":
            self.branch_targets(scope, label)

    def branch_targets(self, scope: Scope, label: Label) -> None:
        self.next()
        targets = [self.word()]
        while self.accept(","):
            targets.append(self.word())
        self.expect(";")
        scope.tables[label.name] = tuple(targets)

    def registers(self, scope: Scope) -> None:
        self.expect(".reg")
        while self.token.text in (".v2", ".v4"):
            raise UnsupportedError("a vector register", self.token.line)
        kind = self.kind()
        while True:
            name = self.word()
            if self.accept("<"):
                scope.ranges[name] = (self.integer(), kind)
                self.expect(">")
            else:
                scope.names[name] = Register(name, kind, scope.number)
            if not self.accept(","):
                break
        self.expect(";")

    def instruction(self, scope: Scope) -> Instruction:
        first = self.token
        guard = None
        if self.accept("@"):
            negated = self.accept("!")
            guard = Guard(Name(self.word()), negated)
        words = self.word().split(".")
        operands: list[Operand] = []
        while not self.accept(";"):
            operands.append(self.operand())
            if self.token.text != ";":
                self.expect(",")
        text = self.text[first.start : self.tokens[self.place - 1].start]
        text = " ".join(text.split())
        return Instruction(
            first.line, text, guard, words[0], tuple(words[1:]), tuple(operands), scope
        )

    def operand(self) -> Operand:
        token = self.token
        if self.accept("!"):
            return Negated(Name(self.word()))
        if self.accept("{"):
            items = [self.operand()]
            while self.accept(","):
                items.append(self.operand())
            self.expect("}")
            return Vector(tuple(items))
        if self.accept("["):
            address = self.address()
            self.expect("]")
            return address
        if token.sort == "number" or token.text == "-":
            return self.signed()
        if token.text == "(":
            raise UnsupportedError("an expression or a call's list of operands", token.line)
        name = Name(self.word())
        if self.accept("|"):
            return Pair(name, self.operand())
        if self.token.text in ("+", "-"):
            return Sum(name, self.offset())
        return name

    def signed(self) -> Immediate:
        negative = self.accept("-")
        if self.token.sort != "number":
            raise PtxSyntaxError(f"{self.token.text!r} where a number belongs", self.token.line)
        number = number_of(self.next().text)
        if not negative:
            return number
        if number.real:
            return Immediate(number.value ^ (1 << (number.real - 1)), number.real)
        return Immediate(-number.value)

    def offset(self) -> int:
        total = 0
        while self.token.text in ("+", "-"):
            sign = -1 if self.next().text == "-" else 1
            total += sign * self.integer()
        return total

    def address(self) -> Address:
        if self.token.sort == "number":
            return Address(Immediate(self.integer()), self.offset())
        base = Name(self.word())
        return Address(base, self.offset())


def parse(text: str) -> ModuleText:
    """A module of PTX text. Raises: PtxSyntaxError, UnsupportedError."""
    return _Parser(text).parse()
