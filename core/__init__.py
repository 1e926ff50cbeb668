"""The foundation of all packages: bundles, files, processes, number formats, charts and pages."""
