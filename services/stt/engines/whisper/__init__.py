"""Whisper for live calls: many utterances, decoded together in batches by CTranslate2."""
