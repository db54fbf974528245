"""LiteRT on a CPU: conversion of a checkpoint, the decoder, and the attention over its cache."""
