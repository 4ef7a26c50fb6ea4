"""A graph made smaller and plainer: constants evaluated, shapes known, branches taken."""
