"""The only place that knows both frameworks: conversion, float64 substitutes, building and running either side."""
