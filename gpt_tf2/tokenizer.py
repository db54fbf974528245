"""Text to token ids and back, by byte-level byte-pair encoding (Radford et al. 2019, section 2.2)."""

import functools
import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from gpt_tf2.vocabularies.byte_level import END_OF_TEXT as END_OF_TEXT
from gpt_tf2.vocabularies.byte_level import Definition, Vocabulary
from gpt_tf2.vocabularies.reading import extend, list_files, read_vocabulary

Origin = tuple[Path, Path | None, tuple[str, ...]]


class Tokenizer:
    """Converts text to token ids and back: exactly as OpenAI's encoder does, or as Hugging Face's tokenizers.

    Args:
        encoder_json: the file with the table of tokens and ids (OpenAI's encoder.json, transformers' vocab.json); or a
            tokenizer.json of Hugging Face's, which holds the merges too. What transformers keeps beside it counts:
            `added_tokens.json`, `special_tokens_map.json`, `tokenizer_config.json`.
        vocab_bpe: the file with the merges (vocab.bpe, merges.txt).

    Attributes:
        n_vocab: the highest id and 1. Ids may have holes, where there is no token.
        end_of_text: the id of the token that ends a text: the eos_token that transformers' settings name, else
            `<|endoftext|>`, which is the last token of OpenAI's vocabularies.
        files: the files that were read.
        contents: their bytes, or what is saved instead of them. Each file is read once, so these are the vocabulary
            even if a file is replaced later.
        origin: what `Tokenizer.open` makes the same tokenizer from: the two arguments and the tokens that were added.

    Raises InputError if a file cannot be read, is malformed, does not belong to the other, or is no byte-level BPE.

    Example:
        >>> tokenizer = Tokenizer("models/124M/encoder.json", "models/124M/vocab.bpe")  # doctest: +SKIP
        >>> tokenizer.encode("Hello, world")  # doctest: +SKIP
        [15496, 11, 995]
    """

    def __init__(self, encoder_json: str | Path, vocab_bpe: str | Path | None = None):
        merges = Path(vocab_bpe) if vocab_bpe else None
        self.origin: Origin = Path(encoder_json), merges, ()
        self.files, vocabulary = read_vocabulary(Path(encoder_json), merges)
        self._use(vocabulary)

    def _use(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self.n_vocab = max(vocabulary.tokens) + 1
        self.end_of_text = vocabulary.end_of_text

    @classmethod
    def open(cls, origin: Origin) -> "Tokenizer":
        """Reads a tokenizer again, by its `origin`."""
        encoder_json, vocab_bpe, added = origin
        return cls(encoder_json, vocab_bpe).with_added(added)

    def with_added(self, tokens: Sequence[str]) -> "Tokenizer":
        """A tokenizer with more tokens, which have the next ids after the highest. Those that it has stay as they are.

        Raises InputError if a token is empty, or if a vocabulary's file uses its name for other text.

        Example:
            >>> tokenizer.with_added(["<user>", "<bot>"]).encode("<user>")  # doctest: +SKIP
            [50257]
        """
        new = tuple(token for token in dict.fromkeys(tokens) if self.token_id(token) is None)
        if not new:
            return self
        extended = Tokenizer.__new__(Tokenizer)
        encoder_json, vocab_bpe, added = self.origin
        extended.files, extended.origin = self.files, (encoder_json, vocab_bpe, (*added, *new))
        extended._use(extend(self._vocabulary, new, str(self.files[0])))
        return extended

    @property
    def contents(self) -> tuple[bytes, ...]:
        return tuple(self._vocabulary.contents.values())

    @functools.cached_property
    def digest(self) -> str:
        """The SHA-256 of every token's bytes, in the order of their ids: the same in every file format and layout."""
        digest, following = hashlib.sha256(), 0
        for id, token in sorted(self._vocabulary.tokens.items()):
            if id != following:
                digest.update(b"to %d " % id)
            digest.update(b"%d " % len(token) + token)
            following = id + 1
        return digest.hexdigest()

    def encode(self, text: str, allow_special: bool = False, allow_added: bool = True) -> list[int]:
        """The ids of a text. A lone surrogate, which UTF-8 cannot hold, is encoded as U+FFFD.

        Args:
            allow_special: whether the name of the end of text is that token, and `<|endoftext|>` the token of that
                name; in a vocabulary without one it is the end of text. By default both are plain text.
            allow_added: whether the names of other added tokens are these tokens, as in transformers. Added tokens of
                white space are tokens in any case.
        """
        if not allow_special or END_OF_TEXT not in text or self.token_id(END_OF_TEXT) is not None:
            return self._vocabulary.encode(text, allow_special, allow_added)
        first, *others = (self._vocabulary.encode(part, True, allow_added) for part in text.split(END_OF_TEXT))
        return [*first, *(id for part in others for id in (self.end_of_text, *part))]

    def encode_batch(self, texts: Sequence[str], num_threads: int | None = None) -> list[list[int]]:
        """The ids of each text, without its end of text.

        Args:
            num_threads: threads to encode on. Default: one per core.
        """
        with ThreadPoolExecutor(num_threads or os.cpu_count()) as threads:
            return list(threads.map(self.encode, texts))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids. Bytes that are not UTF-8, such as half a character at the end, become U+FFFD."""
        return b"".join(self.decode_bytes(int(id)) for id in ids).decode("utf-8", "replace")

    def decode_bytes(self, id: int) -> bytes:
        """The bytes of one id, which may be part of a character. An id without a token has none."""
        return self._vocabulary.tokens.get(id, b"")

    def token_id(self, text: str) -> int | None:
        """The id of the token that is exactly this text; None if there is no such token."""
        return self._ids.get(text.encode(errors="surrogatepass"))

    def undrawn(self, n_vocab: int) -> np.ndarray:
        """The ids below `n_vocab` that have no token, int32, sorted.

        Example:
            >>> tokenizer.undrawn(50260)  # doctest: +SKIP
            array([50257, 50258, 50259], dtype=int32)
        """
        has_token = np.zeros(n_vocab, bool)
        has_token[[id for id in self._vocabulary.tokens if id < n_vocab]] = True
        return np.flatnonzero(~has_token).astype("int32")

    def count_bytes(self, ids: np.ndarray) -> int:
        """The length in UTF-8 bytes of the text of integer ids, not counting the end of text."""
        different, counts = np.unique(ids[ids != self.end_of_text], return_counts=True)
        return sum(len(self.decode_bytes(int(id))) * int(count) for id, count in zip(different, counts, strict=True))

    def define(self) -> Definition:
        """The vocabulary as the content of a tokenizer.json."""
        return self._vocabulary.define()

    def list_files(self, for_transformers: bool) -> dict[str, bytes]:
        """The contents of the files to save, by their names.

        Args:
            for_transformers: whether transformers shall read them too.
        """
        return list_files(self._vocabulary, for_transformers)

    @functools.cached_property
    def _ids(self) -> dict[bytes, int]:
        return {token: id for id, token in self._vocabulary.tokens.items()}
