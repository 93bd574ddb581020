"""Intervals, bootstrap and ranks: functions of numbers that know no grid."""
